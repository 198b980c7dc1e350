"""What a team declares in its project file, and the plan that makes it so."""
