"""One seed's way through the rows, in memory and to disk."""
