//! Drives the real `sluice`, and checks what it did without sharing a line of code with it.

pub mod checker;
pub mod sluice;
