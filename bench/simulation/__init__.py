"""A fleet of Herald on paper: what it needs, what breaks first, and how its storms go."""
