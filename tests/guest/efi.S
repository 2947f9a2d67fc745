/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program for EFI firmware. It prints on the serial console that it was loaded. It calls no
 * function of the firmware, and runs at any address. Its headers (PE32+, with the whole file
 * as one section) are written here, because a linker for ELF does not make such headers.
 */
	.set	ALIGN, 0x200

	.globl _start
_start:
	.ascii	"MZ"
	.org	0x3c
	.long	pe - _start

pe:	.ascii	"PE\0\0"
	.word	0x8664			/* x86-64 */
	.word	1			/* sections */
	.long	0, 0, 0
	.word	sections - optional
	.word	0x0206			/* no line numbers, no debugging, executable */
optional:
	.word	0x20b			/* PE32+ */
	.byte	0, 0
	.long	end - text, 0, 0	/* sizes of code, data, zeroed data */
	.long	entry - _start
	.long	text - _start
	.quad	0			/* preferred load address: any */
	.long	ALIGN, ALIGN
	.word	0, 0, 0, 0, 0, 0
	.long	0
	.long	end - _start		/* size in memory */
	.long	text - _start		/* size of headers */
	.long	0
	.word	10, 0			/* an EFI application */
	.quad	0, 0, 0, 0
	.long	0, 0			/* no data directories: nothing to relocate */
sections:
	.ascii	".text\0\0\0"
	.long	end - text, text - _start, end - text, text - _start
	.long	0, 0
	.word	0, 0
	.long	0x60000020		/* code, executable, readable */

	.org	ALIGN
text:
entry:
	leaq	message(%rip), %rsi
	movw	$0x3f8, %dx
1:	lodsb
	testb	%al, %al
	jz	2f
	outb	%al, %dx
	jmp	1b
2:	hlt
	jmp	2b

message:
	.asciz	"vublk: EFI program\n"
	.balign	ALIGN
end:
