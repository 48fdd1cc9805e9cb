//! From the first instruction to Rust: PVH entry, page tables, long mode.
// UNSAFETY: nothing exists below this code; it makes the machine that Rust expects.
#![allow(unsafe_code)]

use core::arch::global_asm;

// The VMM starts us by the PVH protocol (xen/include/public/arch-x86/hvm/start_info.h): 32-bit flat
// protected mode, paging off, interrupts off, `ebx` = address of `hvm_start_info`. The note is
// XEN_ELFNOTE_PHYS32_ENTRY (18).
//
// The very first instructions say '@' on COM1: the start-up time of a VMM is measured by it.
//
// Only the first GiB is mapped here, with 2 MiB pages; `paging::map` adds what turns out to exist.
global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_entry

    .section .text.boot, "ax"
    .code32
    .globl pvh_entry
pvh_entry:
    mov $0x3f8, %edx
    mov $0x40, %al
    out %al, %dx

    cld
    mov $boot_stack_end, %esp

    movl $boot_pdpt + 3, boot_pml4
    movl $boot_pd + 3, boot_pdpt
    mov $boot_pd, %edi
    mov $0x83, %eax
2:  mov %eax, (%edi)
    add $8, %edi
    add $0x200000, %eax
    cmp $0x40000083, %eax
    jne 2b

    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    lgdt boot_gdtr
    ljmp $8, $3f

    .code64
3:  mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %ebx, %edi
    xor %ebp, %ebp
    call guest_main
4:  hlt
    jmp 4b

    .section .rodata.boot, "a"
    .balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .long boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .globl boot_pml4, boot_pdpt
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4096
    .skip 65536
boot_stack_end:
    "#,
    options(att_syntax)
);

// SAFETY: no other symbol has this name; only the code above calls it, by the C convention.
#[unsafe(no_mangle)]
extern "C" fn guest_main(start_info: u64) -> ! {
    crate::start(start_info)
}
