//! The launcher against AWS's own driver: the module nitro_enclaves of the Linux kernel, in a virtual machine whose Nitro
//! Enclaves device is emulated here.
//!
//! `vfio` serves the device to QEMU, `hypervisor` is what it does, `played` what an enclave does, `parent` the machine. What
//! this does not show: what the real hypervisor answers, and when.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "../common/mod.rs"]
mod common;
#[path = "../guest/mod.rs"]
mod guest;
mod hypervisor;
mod parent;
mod played;
mod vfio;

use std::fs;

use common::TestEnv;
use parent::{PAGES, Parent};
use played::Play;

#[test]
fn the_driver_takes_what_the_launcher_gives() {
    let env = TestEnv::new();
    let image = guest::image(env.path("app.eif"), "heartbeat,forever");
    let bytes = fs::read(&image).unwrap();
    let mut parent = Parent::boot(&[("app.eif", &image)]);
    assert_eq!(parent.free_pages(), PAGES);
    let run = parent.run("eif run app.eif --cpus 2 --memory 128 --debug --detach").success();
    eprintln!("{}", run.said);
    let seen = parent.hypervisor.started(1);
    assert_eq!((seen.memory, seen.debug), (128 << 20, true));
    assert!(seen.image == bytes, "{} bytes of {}", seen.image.len(), bytes.len());
    let _ = Play::default();
    eprintln!("{}", parent.run("eif ps").said);
}
