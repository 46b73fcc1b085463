//! What a guest is given: the NoCloud seed, pure.

pub mod seed;
