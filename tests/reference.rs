//! `eif completions` and `eif man` know every subcommand, and the programs that read them take them.

mod common;

use std::fs;

use common::TestEnv;

/// What `eif --help` lists, and what each of those lists below itself: `policy`, `policy lint`.
fn commands(env: &TestEnv) -> Vec<String> {
    let listed = |words: &[&str]| -> Vec<String> {
        let output = env.eif(&[words, &["--help"]].concat()).success();
        let lines = output.stdout().lines().skip_while(|line| *line != "Commands:").skip(1);
        let rows =
            lines.take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = rows.filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(str::to_owned).collect()
    };
    let mut all = Vec::new();
    for name in listed(&[]) {
        let below = listed(&[&name]);
        all.push(name.clone());
        all.extend(below.iter().map(|below| format!("{name} {below}")));
    }
    assert!(all.len() > 16, "{all:?}");
    for known in ["build", "inspect", "policy", "policy lint", "attest verify", "kernel build", "cache prune", "run"] {
        assert!(all.contains(&known.to_owned()), "no {known} in {all:?}");
    }
    all
}

#[test]
fn shells_take_their_completions() {
    let env = TestEnv::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = env.eif(&["completions", shell]).success();
        for command in commands(&env) {
            let last = command.split(' ').next_back().unwrap();
            assert!(output.stdout().contains(last), "{shell}: {command}");
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
    for command in commands(&env) {
        let name = format!("eif-{}.1", command.replace(' ', "-"));
        let page = fs::read_to_string(env.path("man").join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Example"), "{command}: {page}");
    }
    let _ = env.eif(&["man", "none"]).refused("E-output").says("none");
}
