"""What the repository promises about itself: the contract's style, stubs without drift, layers,
completeness, packaging.

Each rule is a function from sources to complaints. A test runs it on the repository and another
on a small sample that breaks it, so that a rule which can no longer fail is noticed.
"""
