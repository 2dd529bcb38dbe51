"""The control surface in a browser: a page that plays the table of controls, and the server behind it."""
