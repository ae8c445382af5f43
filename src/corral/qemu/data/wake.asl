/*
 * What a q35 machine lacks after SeaBIOS has woken it from S3: SeaBIOS writes the chipset's power management base,
 * ACPI enable and root complex base back through memory-mapped configuration space, which the same reset has switched
 * off. Without them the guest's ACPI is deaf: no power button, no hotplug, no second sleep. The guest's own ACPI
 * interpreter runs _PTS before a sleep and _WAK after it; QEMU's tables for q35 have neither. Where the firmware did
 * its work (UEFI), the registers are what they were and nothing is written.
 *
 * Compiled by `make acpi` (iasl, from acpica-tools) into wake.aml, which is what guests get.
 */
DefinitionBlock ("wake.aml", "SSDT", 1, "CORRAL", "Q35WAKE", 1)
{
    External (\_SB.PCI0, DeviceObj)

    Scope (\_SB.PCI0)
    {
        /* The chipset's two functions once more, for their registers alone: not there for anybody who enumerates. */
        Device (CWM0)
        {
            Name (_ADR, 0x00000000)
            Name (_STA, Zero)
            OperationRegion (MCHR, PCI_Config, 0x60, 0x08)
            Field (MCHR, DWordAcc, NoLock, Preserve)
            {
                EXBL, 32,
                EXBH, 32
            }
        }

        Device (CWL0)
        {
            Name (_ADR, 0x001F0000)
            Name (_STA, Zero)
            OperationRegion (LPCR, PCI_Config, 0x40, 0xB4)
            Field (LPCR, DWordAcc, NoLock, Preserve)
            {
                PMBA, 32,
                ACTL, 32,
                Offset (0xB0),
                RCBA, 32
            }
        }
    }

    /* ICH9 power management I/O where both firmwares put it and QEMU's FADT says it is. */
    OperationRegion (CWPM, SystemIO, 0x0600, 0x30)
    Field (CWPM, WordAcc, NoLock, Preserve)
    {
        Offset (0x04),
        PM1C, 16
    }
    Field (CWPM, ByteAcc, NoLock, Preserve)
    {
        Offset (0x28),
        GPE0, 8,
        GPE1, 8
    }

    Name (CWSV, Package (0x07) { 0, 0, 0, 0, 0, 0, 0 })

    Method (\_PTS, 1, Serialized)
    {
        CWSV [0] = \_SB.PCI0.CWM0.EXBL
        CWSV [1] = \_SB.PCI0.CWM0.EXBH
        CWSV [2] = \_SB.PCI0.CWL0.PMBA
        CWSV [3] = \_SB.PCI0.CWL0.ACTL
        CWSV [4] = \_SB.PCI0.CWL0.RCBA
        CWSV [5] = GPE0
        CWSV [6] = GPE1
    }

    Method (\_WAK, 1, Serialized)
    {
        Local0 = DerefOf (CWSV [2])
        If ((Arg0 == 0x03) && (Local0 == 0x0601) && (\_SB.PCI0.CWL0.PMBA != Local0))
        {
            /* A base is moved while it is off; the enabling bit comes with the low half, last. */
            \_SB.PCI0.CWM0.EXBH = DerefOf (CWSV [1])
            \_SB.PCI0.CWM0.EXBL = DerefOf (CWSV [0])
            \_SB.PCI0.CWL0.PMBA = Local0
            \_SB.PCI0.CWL0.ACTL = DerefOf (CWSV [3])
            \_SB.PCI0.CWL0.RCBA = DerefOf (CWSV [4])
            GPE0 = DerefOf (CWSV [5])
            GPE1 = DerefOf (CWSV [6])
            PM1C = (PM1C | One)
        }

        Return (Package (0x02) { Zero, Zero })
    }
}
