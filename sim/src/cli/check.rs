//! `raftkv-sim check`.
