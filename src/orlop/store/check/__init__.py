"""Looking a store over: records against files, layers against what was put into them (`spec/check-repair.md`)."""
