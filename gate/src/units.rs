//! Durations, sizes and rates with their units, as people write and read them.
