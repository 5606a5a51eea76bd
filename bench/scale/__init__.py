"""How far measuring on many machines goes, and what it costs."""
