"""Playing the separation: the table of controls and everything that derives from it. Never imports pipeline or live."""
