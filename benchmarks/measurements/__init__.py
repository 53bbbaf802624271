"""A module for each subject. A measurement is `async (Lab) -> rows`, as an async generator."""
