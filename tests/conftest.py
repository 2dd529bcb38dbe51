"""Set-up that every test shares."""

from hypothesis import settings

# Machines that run tests are busy and differ: no deadline, and the same examples everywhere.
settings.register_profile("sepstream", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("sepstream")
