//! What the driver's error numbers mean, and the way out of each.
//!
//! Numbers from 256 on are the driver's own (`NE_ERR_*` of `linux/nitro_enclaves.h`); no C library has a text for them.

/// One error number.
#[derive(Debug)]
pub struct Row {
    /// The number, as `errno` has it.
    pub number: i32,
    /// The header's name of it, without `NE_ERR_`; of a plain `errno`, its own name.
    pub name: &'static str,
    /// The stable code of our refusal.
    pub code: &'static str,
    /// What it says, as the end of a sentence that begins with what was tried.
    pub cause: &'static str,
    /// What to do; empty where the numbers of the moment say more.
    pub help: &'static [&'static str],
}

const fn row(
    number: i32,
    name: &'static str,
    code: &'static str,
    cause: &'static str,
    help: &'static [&'static str],
) -> Row {
    Row { number, name, code, cause, help }
}

/// How the pool of CPUs is set.
pub const SET_CPUS: &str = "set `cpu_count` (or `cpu_pool`) in /etc/nitro_enclaves/allocator.yaml, then \
                            `sudo systemctl restart nitro-enclaves-allocator.service`";
/// How memory is set aside.
pub const SET_MEMORY: &str = "set `memory_mib` in /etc/nitro_enclaves/allocator.yaml, then \
                              `sudo systemctl restart nitro-enclaves-allocator.service`";
const OURS: &str = "this is an error in `eif`: please report it";
const LARGER: &str = "reserve 1 GiB pages at boot (kernel parameters `hugepagesz=1G hugepages=N`): each is one region, 2 MiB pages are many";
const NODE: &str = "reserve the huge pages on the NUMA node of the enclaves' CPUs";
const CORES: &str = "give whole cores: all CPUs of each core, with --cpu-ids, or a multiple of them with --cpus";

/// The driver's own numbers.
pub static TABLE: [Row; 20] = [
    row(256, "VCPU_ALREADY_USED", "E-nitro-cpus", "the enclave has this CPU already", &["name each CPU once"]),
    row(
        257,
        "VCPU_NOT_IN_CPU_POOL",
        "E-nitro-cpus",
        "the CPU is not in the pool, or another enclave has its core",
        &["choose CPUs of the pool, or let --cpus N choose", SET_CPUS],
    ),
    row(258, "VCPU_INVALID_CPU_CORE", "E-nitro-cpus", "the CPU's core is out of the driver's range", &[SET_CPUS]),
    row(259, "INVALID_MEM_REGION_SIZE", "E-nitro-internal", "the region is no multiple of 2 MiB", &[OURS]),
    row(260, "INVALID_MEM_REGION_ADDR", "E-nitro-internal", "the region is not in this process's memory", &[OURS]),
    row(261, "UNALIGNED_MEM_REGION_ADDR", "E-nitro-internal", "the region does not begin at 2 MiB", &[OURS]),
    row(262, "MEM_REGION_ALREADY_USED", "E-nitro-internal", "the enclave has this region already", &[OURS]),
    row(263, "MEM_NOT_HUGE_PAGE", "E-nitro-internal", "the region is not of huge pages", &[OURS]),
    row(
        264,
        "MEM_DIFFERENT_NUMA_NODE",
        "E-nitro-hugepages",
        "a huge page is of another NUMA node than the CPUs",
        &[NODE],
    ),
    row(
        265,
        "MEM_MAX_REGIONS",
        "E-nitro-regions",
        "the huge pages lie in more pieces than the hypervisor takes",
        &[LARGER, "or reserve the pages right after boot, while free memory is in one piece", "or give it less memory"],
    ),
    row(266, "NO_MEM_REGIONS_ADDED", "E-nitro-internal", "the enclave has no memory", &[OURS]),
    row(267, "NO_VCPUS_ADDED", "E-nitro-internal", "the enclave has no CPU", &[OURS]),
    row(268, "ENCLAVE_MEM_MIN_SIZE", "E-nitro-memory", "the enclave has less than 64 MiB", &["--memory 64 at least"]),
    row(
        269,
        "FULL_CORES_NOT_USED",
        "E-nitro-cpus",
        "a CPU was given, and another one of the same core was not",
        &[CORES],
    ),
    row(270, "NOT_IN_INIT_STATE", "E-nitro-internal", "the enclave has been started already", &[OURS]),
    row(271, "INVALID_VCPU", "E-nitro-cpus", "the instance has no CPU of this number", &["choose CPUs of the pool"]),
    row(
        272,
        "NO_CPUS_AVAIL_IN_POOL",
        "E-nitro-no-cpus",
        "no CPU of the pool is free",
        &["stop another enclave, or give the pool more CPUs", SET_CPUS],
    ),
    row(273, "INVALID_PAGE_SIZE", "E-nitro-internal", "the huge pages are smaller than 2 MiB", &[OURS]),
    row(274, "INVALID_FLAG_VALUE", "E-nitro-driver", "the driver does not know a flag", &["update the kernel"]),
    row(
        275,
        "INVALID_ENCLAVE_CID",
        "E-nitro-cid",
        "the CID is reserved",
        &["4 to 4294967294 that no running enclave has, or none at all"],
    ),
];

/// Numbers that any system call may give, as this driver means them.
pub static ERRNOS: [Row; 12] = [
    row(libc::EPERM, "EPERM", "E-nitro-permission", "the kernel does not allow it", &["run it as root"]),
    row(
        libc::EIO,
        "EIO",
        "E-nitro-driver",
        "the hypervisor refused, or the process is not the one that created the enclave",
        &["`dmesg` may say more (nitro_enclaves)"],
    ),
    row(
        libc::ENOMEM,
        "ENOMEM",
        "E-nitro-driver",
        "the kernel or the hypervisor is out of memory",
        &["`dmesg` may say more (nitro_enclaves)"],
    ),
    row(
        libc::EACCES,
        "EACCES",
        "E-nitro-permission",
        "permission denied",
        &["become a member of the group `ne`: `sudo usermod -aG ne $USER`, then log in again"],
    ),
    row(libc::EFAULT, "EFAULT", "E-nitro-internal", "the memory is not this process's", &[OURS]),
    row(
        libc::ENODEV,
        "ENODEV",
        "E-nitro-device",
        "the device is gone",
        &["`lspci -d 1d0f:e4c1` shows it on an instance with enclaves enabled"],
    ),
    row(
        libc::EINVAL,
        "EINVAL",
        "E-nitro-driver",
        "the driver or the hypervisor found an argument wrong",
        &["`dmesg` may say more (nitro_enclaves)"],
    ),
    row(libc::ENFILE, "ENFILE", "E-nitro-descriptors", "the machine has too many files open", &["close some"]),
    row(libc::EMFILE, "EMFILE", "E-nitro-descriptors", "this process has too many files open", &["raise `ulimit -n`"]),
    row(
        libc::ENOTTY,
        "ENOTTY",
        "E-nitro-device",
        "this is no device of Nitro Enclaves",
        &["`sudo modprobe nitro_enclaves` makes /dev/nitro_enclaves"],
    ),
    row(
        libc::EOVERFLOW,
        "EOVERFLOW",
        "E-nitro-driver",
        "the driver answered with a number out of range",
        &["update the kernel"],
    ),
    row(
        libc::ETIMEDOUT,
        "ETIMEDOUT",
        "E-nitro-timeout",
        "the hypervisor did not answer within 120 s",
        &["try again; if it happens again, stop and start the instance"],
    ),
];

/// The row of a number, if it has one.
pub fn find(number: i32) -> Option<&'static Row> {
    TABLE.iter().chain(&ERRNOS).find(|row| row.number == number)
}

/// The cause in words, with the number: `no CPU of the pool is free (NE 272)`.
pub fn cause(number: i32) -> String {
    match find(number) {
        Some(row) if number >= 256 => format!("{} (NE {number})", row.cause),
        Some(row) => format!("{} ({})", row.cause, row.name),
        None if number >= 256 => format!("the driver gives an error that is new to `eif` (NE {number})"),
        None => std::io::Error::from_raw_os_error(number).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_words_a_code_and_a_way_out() {
        assert!(TABLE.iter().map(|row| row.number).eq(256..=275));
        for row in TABLE.iter().chain(&ERRNOS) {
            assert!(!row.cause.is_empty() && !row.help.is_empty(), "{row:?}");
            assert!(row.code.starts_with("E-nitro-"), "{row:?}");
            assert!(!row.cause.ends_with('.') && !row.cause.contains("  "), "{row:?}");
            assert!(std::ptr::eq(find(row.number).unwrap(), row), "{row:?}");
        }
    }

    /// What std says of these numbers is "Unknown error 272".
    #[test]
    fn no_cause_is_an_unknown_error() {
        assert_eq!(cause(272), "no CPU of the pool is free (NE 272)");
        assert_eq!(cause(libc::EIO).split(" (").last(), Some("EIO)"));
        assert_eq!(cause(300), "the driver gives an error that is new to `eif` (NE 300)");
        assert_eq!(cause(libc::ENOSPC), "No space left on device (os error 28)");
        assert!((256..=400).all(|number| !cause(number).contains("Unknown error")));
    }
}
