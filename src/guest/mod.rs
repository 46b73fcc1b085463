//! What a guest is given and what it tells: the NoCloud seed, cloud-init's result; pure.

pub mod cloud_init;
pub mod seed;
