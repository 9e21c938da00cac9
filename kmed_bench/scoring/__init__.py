"""Error rates, groups, uncertainty, comparisons. Works on texts alone, without torch."""
