"""A pool of tool workers in simulated time: who sizes it how well, and what failures do to it."""
