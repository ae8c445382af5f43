"""A host in a guest, with cards that this machine lacks: virtual functions behind an IOMMU, NVMe, SCSI, USB."""
