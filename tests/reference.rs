//! `eif completions` and `eif man` know every subcommand, and the programs that read them take them.

mod common;

use std::fs;

use common::TestEnv;

const COMMANDS: [&str; 6] = ["build", "extract", "inspect", "kernel", "pcr", "run"];

#[test]
fn shells_take_their_completions() {
    let env = TestEnv::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = env.eif(&["completions", shell]).success();
        for command in COMMANDS {
            assert!(output.stdout().contains(command), "{shell}: {command}");
        }
        assert!(output.stdout().contains("rootfs"), "{shell}: options");
        env.write(shell, output.stdout());
    }
    let script = ". ./bash; COMP_WORDS=(eif ins) COMP_CWORD=1; _eif eif ins eif; echo \"${COMPREPLY[@]}\"";
    let completed = env.command_of("bash", &["--norc", "-c", script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "inspect", "{completed:?}");
    let _ = env.eif(&["completions", "tcsh"]).code(2);
}

#[test]
fn every_subcommand_has_a_page() {
    let env = TestEnv::new();
    fs::create_dir(env.path("man")).unwrap();
    let _ = env.eif(&["man", "man"]).success();
    let pages = env.listing(&env.path("man"));
    assert!(pages.contains(&"eif.1".to_owned()), "{pages:?}");
    for command in COMMANDS {
        let page = fs::read_to_string(env.path("man").join(format!("eif-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Example"), "{command}: {page}");
    }
    let _ = env.eif(&["man", "none"]).refused("E-output").says("none");
}
