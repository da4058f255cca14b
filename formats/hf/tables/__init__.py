"""What the tables of architectures and towers are made of: sizes, conditions, rows, rules, and operations."""
