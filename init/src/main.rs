//! The program: [`eif_init::boot`] with an entry point.

#![no_std]
#![no_main]

eif_init::freestanding!(eif_init::boot::run, eif_init::boot::panicked);
