"""How hard a pair is. Every metric is a function of the pairs and its settings in which larger means easier."""
