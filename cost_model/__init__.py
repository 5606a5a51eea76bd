"""Predicts how long kernels take. Arrays in, arrays out: knows no TVM, no database, no workload."""
