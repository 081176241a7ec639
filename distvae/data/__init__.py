"""The data floor: Arrow and NumPy, no torch and no Ray."""
