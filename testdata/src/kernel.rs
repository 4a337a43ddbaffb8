//! Stand-ins for kernels: right headers and nothing behind them, for tests that build but do not boot.

/// A file that has the header of an x86_64 bzImage (Documentation/arch/x86/boot.rst, protocol 2.15) and calls itself
/// Linux 6.12.0.
pub fn fake_bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects: the kernel proper begins at (1 + 1) * 512
    put(0x1f4, &(0xc00_u32 / 16).to_le_bytes()); // syssize, in paragraphs
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x200, &[0xeb, 0x6a]); // jump over the header, which ends at 0x26c
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes()); // protocol
    put(0x20e, &0x100_u16.to_le_bytes()); // kernel_version, counted from 0x200
    put(0x211, &[1]); // loadflags: LOADED_HIGH
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(0x234, &[1]); // relocatable_kernel
    put(0x236, &0x3_u16.to_le_bytes()); // xloadflags: 64-bit entry, may be loaded above 4 GiB
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(0x258, &0x100_0000_u64.to_le_bytes()); // pref_address
    put(0x260, &0x100_0000_u32.to_le_bytes()); // init_size
    put(0x300, b"6.12.0 (eif@eif) #1 SMP\0");
    image
}

/// A file that has the header of an arm64 Image (Documentation/arch/arm64/booting.rst).
pub fn fake_arm64_image() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &0x1400_0010_u32.to_le_bytes()); // branch over the header
    put(16, &0x20_0000_u64.to_le_bytes()); // image_size
    put(24, &0xa_u64.to_le_bytes()); // flags: little endian, 4 KiB pages, anywhere in memory
    put(56, b"ARM\x64");
    put(0x100, b"Linux version 6.12.0 (eif@eif) #1 SMP\0");
    image
}
