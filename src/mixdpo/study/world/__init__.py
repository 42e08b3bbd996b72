"""Small worlds of known reward, in which thousands of policies are trained and measured in minutes."""
