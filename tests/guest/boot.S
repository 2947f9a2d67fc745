/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A boot sector for BIOS firmware. It reads the next sector with the firmware's driver in an
 * endless loop, and prints the sector once on the serial console. So requests are in flight
 * whenever the machine is reset.
 */
	.code16
	.globl _start
_start:
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	movb	%dl, drive - _start + 0x7c00
read:
	movw	$packet - _start + 0x7c00, %si
	movb	drive - _start + 0x7c00, %dl
	movb	$0x42, %ah		/* extended read, of one sector, to 0x7e00 */
	int	$0x13
	jc	stop
	cmpb	$0, said - _start + 0x7c00
	jne	read
	movb	$1, said - _start + 0x7c00
	movw	$0x7e00, %si
	movw	$0x3f8, %dx		/* the first serial port */
print:
	lodsb
	testb	%al, %al
	jz	read
	outb	%al, %dx
	jmp	print
stop:
	hlt
	jmp	stop

said:	.byte	0
drive:	.byte	0
	.balign	4
packet:	.byte	16, 0
	.word	1, 0x7e00, 0
	.quad	1

	.org	510
	.word	0xaa55
