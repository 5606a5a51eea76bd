"""TVM MetaSchedule's design spaces, driven from outside: each sampling decision of a trace is a named parameter."""
