"""The command line `tenor`: one module for each group of verbs, and what they share in how they read and show."""
