//! naive evaluator
