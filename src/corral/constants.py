"""libvirt's public API constants, as plain integers grouped by the enum that declares them.

Class `X` is libvirt's `virX` (without a trailing `Values`), its members are the enum's without their common
prefix and without the `_LAST` sentinels. Source: libvirt-host.h, libvirt-domain.h and their neighbours of libvirt
11.3. Plain classes, not `enum.IntEnum`: importing this module must cost about a millisecond.
"""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, without the 8 ms that importing typing takes
if TYPE_CHECKING:
    from typing import Final


def name_of(group: type, value: int) -> str | None:
    """The member of `group` that equals `value`, in lower case with dashes, or None."""
    for name, member in vars(group).items():
        if not name.startswith("_") and member == value:
            return name.lower().replace("_", "-")
    return None


class ConnectBaselineCPUFlags:
    """virConnectBaselineCPUFlags"""

    EXPAND_FEATURES: Final = 1
    MIGRATABLE: Final = 2


class ConnectCloseReason:
    """virConnectCloseReason"""

    ERROR: Final = 0
    EOF: Final = 1
    KEEPALIVE: Final = 2
    CLIENT: Final = 3


class ConnectCompareCPUFlags:
    """virConnectCompareCPUFlags"""

    FAIL_INCOMPATIBLE: Final = 1
    VALIDATE_XML: Final = 2


class ConnectDomainEventAgentLifecycleReason:
    """virConnectDomainEventAgentLifecycleReason"""

    UNKNOWN: Final = 0
    DOMAIN_STARTED: Final = 1
    CHANNEL: Final = 2


class ConnectDomainEventAgentLifecycleState:
    """virConnectDomainEventAgentLifecycleState"""

    CONNECTED: Final = 1
    DISCONNECTED: Final = 2


class ConnectGetAllDomainStatsFlags:
    """virConnectGetAllDomainStatsFlags"""

    ACTIVE: Final = 1
    INACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    RUNNING: Final = 16
    PAUSED: Final = 32
    SHUTOFF: Final = 64
    OTHER: Final = 128
    NOWAIT: Final = 536870912
    BACKING: Final = 1073741824
    ENFORCE_STATS: Final = 2147483648


class ConnectGetDomainCapabilitiesFlags:
    """virConnectGetDomainCapabilitiesFlags"""

    DISABLE_DEPRECATED_FEATURES: Final = 1


class ConnectListAllDomainsFlags:
    """virConnectListAllDomainsFlags"""

    ACTIVE: Final = 1
    INACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    RUNNING: Final = 16
    PAUSED: Final = 32
    SHUTOFF: Final = 64
    OTHER: Final = 128
    MANAGEDSAVE: Final = 256
    NO_MANAGEDSAVE: Final = 512
    AUTOSTART: Final = 1024
    NO_AUTOSTART: Final = 2048
    HAS_SNAPSHOT: Final = 4096
    NO_SNAPSHOT: Final = 8192
    HAS_CHECKPOINT: Final = 16384
    NO_CHECKPOINT: Final = 32768


class ConnectListAllInterfacesFlags:
    """virConnectListAllInterfacesFlags"""

    INACTIVE: Final = 1
    ACTIVE: Final = 2


class ConnectListAllNetworksFlags:
    """virConnectListAllNetworksFlags"""

    INACTIVE: Final = 1
    ACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    AUTOSTART: Final = 16
    NO_AUTOSTART: Final = 32


class ConnectListAllNodeDeviceFlags:
    """virConnectListAllNodeDeviceFlags"""

    CAP_SYSTEM: Final = 1
    CAP_PCI_DEV: Final = 2
    CAP_USB_DEV: Final = 4
    CAP_USB_INTERFACE: Final = 8
    CAP_NET: Final = 16
    CAP_SCSI_HOST: Final = 32
    CAP_SCSI_TARGET: Final = 64
    CAP_SCSI: Final = 128
    CAP_STORAGE: Final = 256
    CAP_FC_HOST: Final = 512
    CAP_VPORTS: Final = 1024
    CAP_SCSI_GENERIC: Final = 2048
    CAP_DRM: Final = 4096
    CAP_MDEV_TYPES: Final = 8192
    CAP_MDEV: Final = 16384
    CAP_CCW_DEV: Final = 32768
    CAP_CSS_DEV: Final = 65536
    CAP_VDPA: Final = 131072
    CAP_AP_CARD: Final = 262144
    CAP_AP_QUEUE: Final = 524288
    CAP_AP_MATRIX: Final = 1048576
    CAP_VPD: Final = 2097152
    CAP_CCWGROUP_DEV: Final = 4194304
    CAP_CCWGROUP_MEMBER: Final = 8388608
    PERSISTENT: Final = 268435456
    TRANSIENT: Final = 536870912
    INACTIVE: Final = 1073741824
    ACTIVE: Final = 2147483648


class ConnectListAllSecretsFlags:
    """virConnectListAllSecretsFlags"""

    EPHEMERAL: Final = 1
    NO_EPHEMERAL: Final = 2
    PRIVATE: Final = 4
    NO_PRIVATE: Final = 8


class ConnectListAllStoragePoolsFlags:
    """virConnectListAllStoragePoolsFlags"""

    INACTIVE: Final = 1
    ACTIVE: Final = 2
    PERSISTENT: Final = 4
    TRANSIENT: Final = 8
    AUTOSTART: Final = 16
    NO_AUTOSTART: Final = 32
    DIR: Final = 64
    FS: Final = 128
    NETFS: Final = 256
    LOGICAL: Final = 512
    DISK: Final = 1024
    ISCSI: Final = 2048
    SCSI: Final = 4096
    MPATH: Final = 8192
    RBD: Final = 16384
    SHEEPDOG: Final = 32768
    GLUSTER: Final = 65536
    ZFS: Final = 131072
    VSTORAGE: Final = 262144
    ISCSI_DIRECT: Final = 524288


class ConnectFlags:
    """virConnectFlags"""

    RO: Final = 1
    NO_ALIASES: Final = 2


class CPUCompareResult:
    """virCPUCompareResult"""

    ERROR: Final = -1
    INCOMPATIBLE: Final = 0
    IDENTICAL: Final = 1
    SUPERSET: Final = 2


class ConnectCredentialType:
    """virConnectCredentialType"""

    USERNAME: Final = 1
    AUTHNAME: Final = 2
    LANGUAGE: Final = 3
    CNONCE: Final = 4
    PASSPHRASE: Final = 5
    ECHOPROMPT: Final = 6
    NOECHOPROMPT: Final = 7
    REALM: Final = 8
    EXTERNAL: Final = 9


class DomainAbortJobFlags:
    """virDomainAbortJobFlagsValues"""

    POSTCOPY: Final = 1


class DomainModificationImpact:
    """virDomainModificationImpact"""

    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2


class DomainAgentResponseTimeout:
    """virDomainAgentResponseTimeoutValues"""

    BLOCK: Final = -2
    DEFAULT: Final = -1
    NOWAIT: Final = 0


class DomainAuthorizedSSHKeysSetFlags:
    """virDomainAuthorizedSSHKeysSetFlags"""

    APPEND: Final = 1
    REMOVE: Final = 2


class DomainBackupBeginFlags:
    """virDomainBackupBeginFlags"""

    REUSE_EXTERNAL: Final = 1


class BlkioParameterType:
    """virBlkioParameterType"""

    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6


class DomainState:
    """virDomainState"""

    NOSTATE: Final = 0
    RUNNING: Final = 1
    BLOCKED: Final = 2
    PAUSED: Final = 3
    SHUTDOWN: Final = 4
    SHUTOFF: Final = 5
    CRASHED: Final = 6
    PMSUSPENDED: Final = 7


class DomainBlockedReason:
    """virDomainBlockedReason"""

    UNKNOWN: Final = 0


class DomainBlockCommitFlags:
    """virDomainBlockCommitFlags"""

    SHALLOW: Final = 1
    DELETE: Final = 2
    ACTIVE: Final = 4
    RELATIVE: Final = 8
    BANDWIDTH_BYTES: Final = 16


class DomainBlockCopyFlags:
    """virDomainBlockCopyFlags"""

    SHALLOW: Final = 1
    REUSE_EXT: Final = 2
    TRANSIENT_JOB: Final = 4
    SYNCHRONOUS_WRITES: Final = 8


class DomainBlockJobAbortFlags:
    """virDomainBlockJobAbortFlags"""

    ASYNC: Final = 1
    PIVOT: Final = 2


class ConnectDomainEventBlockJobStatus:
    """virConnectDomainEventBlockJobStatus"""

    COMPLETED: Final = 0
    FAILED: Final = 1
    CANCELED: Final = 2
    READY: Final = 3


class DomainBlockJobInfoFlags:
    """virDomainBlockJobInfoFlags"""

    BANDWIDTH_BYTES: Final = 1


class DomainBlockJobSetSpeedFlags:
    """virDomainBlockJobSetSpeedFlags"""

    SPEED_BANDWIDTH_BYTES: Final = 1


class DomainBlockJobType:
    """virDomainBlockJobType"""

    UNKNOWN: Final = 0
    PULL: Final = 1
    COPY: Final = 2
    COMMIT: Final = 3
    ACTIVE_COMMIT: Final = 4
    BACKUP: Final = 5


class DomainBlockPullFlags:
    """virDomainBlockPullFlags"""

    BANDWIDTH_BYTES: Final = 64


class DomainBlockRebaseFlags:
    """virDomainBlockRebaseFlags"""

    SHALLOW: Final = 1
    REUSE_EXT: Final = 2
    COPY_RAW: Final = 4
    COPY: Final = 8
    RELATIVE: Final = 16
    COPY_DEV: Final = 32
    BANDWIDTH_BYTES: Final = 64


class DomainBlockResizeFlags:
    """virDomainBlockResizeFlags"""

    BYTES: Final = 1
    CAPACITY: Final = 2


class DomainChannelFlags:
    """virDomainChannelFlags"""

    FORCE: Final = 1


class DomainCheckpointCreateFlags:
    """virDomainCheckpointCreateFlags"""

    REDEFINE: Final = 1
    QUIESCE: Final = 2
    REDEFINE_VALIDATE: Final = 4


class DomainCheckpointDeleteFlags:
    """virDomainCheckpointDeleteFlags"""

    CHILDREN: Final = 1
    METADATA_ONLY: Final = 2
    CHILDREN_ONLY: Final = 4


class DomainCheckpointListFlags:
    """virDomainCheckpointListFlags"""

    DESCENDANTS: Final = 1
    ROOTS: Final = 1
    TOPOLOGICAL: Final = 2
    LEAVES: Final = 4
    NO_LEAVES: Final = 8


class DomainCheckpointXMLFlags:
    """virDomainCheckpointXMLFlags"""

    SECURE: Final = 1
    NO_DOMAIN: Final = 2
    SIZE: Final = 4


class DomainConsoleFlags:
    """virDomainConsoleFlags"""

    FORCE: Final = 1
    SAFE: Final = 2


class DomainControlState:
    """virDomainControlState"""

    OK: Final = 0
    JOB: Final = 1
    OCCUPIED: Final = 2
    ERROR: Final = 3


class DomainControlErrorReason:
    """virDomainControlErrorReason"""

    NONE: Final = 0
    UNKNOWN: Final = 1
    MONITOR: Final = 2
    INTERNAL: Final = 3


class DomainCoreDumpFormat:
    """virDomainCoreDumpFormat"""

    RAW: Final = 0
    KDUMP_ZLIB: Final = 1
    KDUMP_LZO: Final = 2
    KDUMP_SNAPPY: Final = 3
    WIN_DMP: Final = 4


class DomainCrashedReason:
    """virDomainCrashedReason"""

    UNKNOWN: Final = 0
    PANICKED: Final = 1


class DomainDefineFlags:
    """virDomainDefineFlags"""

    VALIDATE: Final = 1


class DomainDestroyFlags:
    """virDomainDestroyFlagsValues"""

    DEFAULT: Final = 0
    GRACEFUL: Final = 1
    REMOVE_LOGS: Final = 2


class DomainDeviceModifyFlags:
    """virDomainDeviceModifyFlags"""

    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2
    FORCE: Final = 4


class DomainDirtyRateStatus:
    """virDomainDirtyRateStatus"""

    UNSTARTED: Final = 0
    MEASURING: Final = 1
    MEASURED: Final = 2


class DomainDirtyRateCalcFlags:
    """virDomainDirtyRateCalcFlags"""

    PAGE_SAMPLING: Final = 0
    DIRTY_BITMAP: Final = 1
    DIRTY_RING: Final = 2


class DomainDiskErrorCode:
    """virDomainDiskErrorCode"""

    NONE: Final = 0
    UNSPEC: Final = 1
    NO_SPACE: Final = 2


class DomainEventType:
    """virDomainEventType"""

    DEFINED: Final = 0
    UNDEFINED: Final = 1
    STARTED: Final = 2
    SUSPENDED: Final = 3
    RESUMED: Final = 4
    STOPPED: Final = 5
    SHUTDOWN: Final = 6
    PMSUSPENDED: Final = 7
    CRASHED: Final = 8


class DomainEventCrashedDetailType:
    """virDomainEventCrashedDetailType"""

    PANICKED: Final = 0
    CRASHLOADED: Final = 1


class DomainEventDefinedDetailType:
    """virDomainEventDefinedDetailType"""

    ADDED: Final = 0
    UPDATED: Final = 1
    RENAMED: Final = 2
    FROM_SNAPSHOT: Final = 3


class ConnectDomainEventDiskChangeReason:
    """virConnectDomainEventDiskChangeReason"""

    CHANGE_MISSING_ON_START: Final = 0
    DROP_MISSING_ON_START: Final = 1


class DomainEventGraphicsAddressType:
    """virDomainEventGraphicsAddressType"""

    IPV4: Final = 0
    IPV6: Final = 1
    UNIX: Final = 2


class DomainEventGraphicsPhase:
    """virDomainEventGraphicsPhase"""

    CONNECT: Final = 0
    INITIALIZE: Final = 1
    DISCONNECT: Final = 2


class DomainEventID:
    """virDomainEventID"""

    LIFECYCLE: Final = 0
    REBOOT: Final = 1
    RTC_CHANGE: Final = 2
    WATCHDOG: Final = 3
    IO_ERROR: Final = 4
    GRAPHICS: Final = 5
    IO_ERROR_REASON: Final = 6
    CONTROL_ERROR: Final = 7
    BLOCK_JOB: Final = 8
    DISK_CHANGE: Final = 9
    TRAY_CHANGE: Final = 10
    PMWAKEUP: Final = 11
    PMSUSPEND: Final = 12
    BALLOON_CHANGE: Final = 13
    PMSUSPEND_DISK: Final = 14
    DEVICE_REMOVED: Final = 15
    BLOCK_JOB_2: Final = 16
    TUNABLE: Final = 17
    AGENT_LIFECYCLE: Final = 18
    DEVICE_ADDED: Final = 19
    MIGRATION_ITERATION: Final = 20
    JOB_COMPLETED: Final = 21
    DEVICE_REMOVAL_FAILED: Final = 22
    METADATA_CHANGE: Final = 23
    BLOCK_THRESHOLD: Final = 24
    MEMORY_FAILURE: Final = 25
    MEMORY_DEVICE_SIZE_CHANGE: Final = 26
    NIC_MAC_CHANGE: Final = 27


class DomainEventIOErrorAction:
    """virDomainEventIOErrorAction"""

    NONE: Final = 0
    PAUSE: Final = 1
    REPORT: Final = 2


class DomainMemoryFailureActionType:
    """virDomainMemoryFailureActionType"""

    IGNORE: Final = 0
    INJECT: Final = 1
    FATAL: Final = 2
    RESET: Final = 3


class DomainMemoryFailureRecipientType:
    """virDomainMemoryFailureRecipientType"""

    HYPERVISOR: Final = 0
    GUEST: Final = 1


class DomainEventPMSuspendedDetailType:
    """virDomainEventPMSuspendedDetailType"""

    MEMORY: Final = 0
    DISK: Final = 1


class DomainEventResumedDetailType:
    """virDomainEventResumedDetailType"""

    UNPAUSED: Final = 0
    MIGRATED: Final = 1
    FROM_SNAPSHOT: Final = 2
    POSTCOPY: Final = 3
    POSTCOPY_FAILED: Final = 4


class DomainEventShutdownDetailType:
    """virDomainEventShutdownDetailType"""

    FINISHED: Final = 0
    GUEST: Final = 1
    HOST: Final = 2


class DomainEventStartedDetailType:
    """virDomainEventStartedDetailType"""

    BOOTED: Final = 0
    MIGRATED: Final = 1
    RESTORED: Final = 2
    FROM_SNAPSHOT: Final = 3
    WAKEUP: Final = 4


class DomainEventStoppedDetailType:
    """virDomainEventStoppedDetailType"""

    SHUTDOWN: Final = 0
    DESTROYED: Final = 1
    CRASHED: Final = 2
    MIGRATED: Final = 3
    SAVED: Final = 4
    FAILED: Final = 5
    FROM_SNAPSHOT: Final = 6


class DomainEventSuspendedDetailType:
    """virDomainEventSuspendedDetailType"""

    PAUSED: Final = 0
    MIGRATED: Final = 1
    IOERROR: Final = 2
    WATCHDOG: Final = 3
    RESTORED: Final = 4
    FROM_SNAPSHOT: Final = 5
    API_ERROR: Final = 6
    POSTCOPY: Final = 7
    POSTCOPY_FAILED: Final = 8


class DomainEventTrayChangeReason:
    """virDomainEventTrayChangeReason"""

    OPEN: Final = 0
    CLOSE: Final = 1


class DomainEventUndefinedDetailType:
    """virDomainEventUndefinedDetailType"""

    REMOVED: Final = 0
    RENAMED: Final = 1


class DomainEventWatchdogAction:
    """virDomainEventWatchdogAction"""

    NONE: Final = 0
    PAUSE: Final = 1
    RESET: Final = 2
    POWEROFF: Final = 3
    SHUTDOWN: Final = 4
    DEBUG: Final = 5
    INJECTNMI: Final = 6


class DomainFDAssociateFlags:
    """virDomainFDAssociateFlags"""

    RESTORE: Final = 1
    WRITABLE: Final = 2


class DomainGetHostnameFlags:
    """virDomainGetHostnameFlags"""

    LEASE: Final = 1
    AGENT: Final = 2


class DomainGraphicsReloadType:
    """virDomainGraphicsReloadType"""

    ANY: Final = 0
    VNC: Final = 1


class DomainGuestInfoTypes:
    """virDomainGuestInfoTypes"""

    USERS: Final = 1
    OS: Final = 2
    TIMEZONE: Final = 4
    HOSTNAME: Final = 8
    FILESYSTEM: Final = 16
    DISKS: Final = 32
    INTERFACES: Final = 64
    LOAD: Final = 128


class DomainInterfaceAddressesSource:
    """virDomainInterfaceAddressesSource"""

    LEASE: Final = 0
    AGENT: Final = 1
    ARP: Final = 2


class DomainJobType:
    """virDomainJobType"""

    NONE: Final = 0
    BOUNDED: Final = 1
    UNBOUNDED: Final = 2
    COMPLETED: Final = 3
    FAILED: Final = 4
    CANCELLED: Final = 5


class DomainJobOperation:
    """virDomainJobOperation"""

    UNKNOWN: Final = 0
    START: Final = 1
    SAVE: Final = 2
    RESTORE: Final = 3
    MIGRATION_IN: Final = 4
    MIGRATION_OUT: Final = 5
    SNAPSHOT: Final = 6
    SNAPSHOT_REVERT: Final = 7
    DUMP: Final = 8
    BACKUP: Final = 9
    SNAPSHOT_DELETE: Final = 10


class DomainGetJobStatsFlags:
    """virDomainGetJobStatsFlags"""

    COMPLETED: Final = 1
    KEEP_COMPLETED: Final = 2


class DomainLifecycleAction:
    """virDomainLifecycleAction"""

    DESTROY: Final = 0
    RESTART: Final = 1
    RESTART_RENAME: Final = 2
    PRESERVE: Final = 3
    COREDUMP_DESTROY: Final = 4
    COREDUMP_RESTART: Final = 5


class DomainLifecycle:
    """virDomainLifecycle"""

    POWEROFF: Final = 0
    REBOOT: Final = 1
    CRASH: Final = 2


class DomainMemoryFailureFlags:
    """virDomainMemoryFailureFlags"""

    ACTION_REQUIRED: Final = 1
    RECURSIVE: Final = 2


class MemoryParameterType:
    """virMemoryParameterType"""

    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6


class DomainMemoryStatTags:
    """virDomainMemoryStatTags"""

    SWAP_IN: Final = 0
    SWAP_OUT: Final = 1
    MAJOR_FAULT: Final = 2
    MINOR_FAULT: Final = 3
    UNUSED: Final = 4
    AVAILABLE: Final = 5
    ACTUAL_BALLOON: Final = 6
    RSS: Final = 7
    USABLE: Final = 8
    LAST_UPDATE: Final = 9
    DISK_CACHES: Final = 10
    HUGETLB_PGALLOC: Final = 11
    HUGETLB_PGFAIL: Final = 12
    NR: Final = 13


class DomainMemoryModFlags:
    """virDomainMemoryModFlags"""

    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2
    MAXIMUM: Final = 4


class DomainMessageType:
    """virDomainMessageType"""

    DEPRECATION: Final = 1
    TAINTING: Final = 2
    IOERRORS: Final = 4


class DomainMetadataType:
    """virDomainMetadataType"""

    DESCRIPTION: Final = 0
    TITLE: Final = 1
    ELEMENT: Final = 2


class DomainMigrateMaxSpeedFlags:
    """virDomainMigrateMaxSpeedFlags"""

    POSTCOPY: Final = 1


class DomainCreateFlags:
    """virDomainCreateFlags"""

    NONE: Final = 0
    START_PAUSED: Final = 1
    START_AUTODESTROY: Final = 2
    START_BYPASS_CACHE: Final = 4
    START_FORCE_BOOT: Final = 8
    START_VALIDATE: Final = 16
    START_RESET_NVRAM: Final = 32


class DomainNostateReason:
    """virDomainNostateReason"""

    UNKNOWN: Final = 0


class DomainNumatuneMemMode:
    """virDomainNumatuneMemMode"""

    STRICT: Final = 0
    PREFERRED: Final = 1
    INTERLEAVE: Final = 2
    RESTRICTIVE: Final = 3


class DomainOpenGraphicsFlags:
    """virDomainOpenGraphicsFlags"""

    SKIPAUTH: Final = 1


class DomainSetUserPasswordFlags:
    """virDomainSetUserPasswordFlags"""

    PASSWORD_ENCRYPTED: Final = 1


class DomainPausedReason:
    """virDomainPausedReason"""

    UNKNOWN: Final = 0
    USER: Final = 1
    MIGRATION: Final = 2
    SAVE: Final = 3
    DUMP: Final = 4
    IOERROR: Final = 5
    WATCHDOG: Final = 6
    FROM_SNAPSHOT: Final = 7
    SHUTTING_DOWN: Final = 8
    SNAPSHOT: Final = 9
    CRASHED: Final = 10
    STARTING_UP: Final = 11
    POSTCOPY: Final = 12
    POSTCOPY_FAILED: Final = 13
    API_ERROR: Final = 14


class DomainPMSuspendedDiskReason:
    """virDomainPMSuspendedDiskReason"""

    UNKNOWN: Final = 0


class DomainPMSuspendedReason:
    """virDomainPMSuspendedReason"""

    UNKNOWN: Final = 0


class DomainProcessSignal:
    """virDomainProcessSignal"""

    NOP: Final = 0
    HUP: Final = 1
    INT: Final = 2
    QUIT: Final = 3
    ILL: Final = 4
    TRAP: Final = 5
    ABRT: Final = 6
    BUS: Final = 7
    FPE: Final = 8
    KILL: Final = 9
    USR1: Final = 10
    SEGV: Final = 11
    USR2: Final = 12
    PIPE: Final = 13
    ALRM: Final = 14
    TERM: Final = 15
    STKFLT: Final = 16
    CHLD: Final = 17
    CONT: Final = 18
    STOP: Final = 19
    TSTP: Final = 20
    TTIN: Final = 21
    TTOU: Final = 22
    URG: Final = 23
    XCPU: Final = 24
    XFSZ: Final = 25
    VTALRM: Final = 26
    PROF: Final = 27
    WINCH: Final = 28
    POLL: Final = 29
    PWR: Final = 30
    SYS: Final = 31
    RT0: Final = 32
    RT1: Final = 33
    RT2: Final = 34
    RT3: Final = 35
    RT4: Final = 36
    RT5: Final = 37
    RT6: Final = 38
    RT7: Final = 39
    RT8: Final = 40
    RT9: Final = 41
    RT10: Final = 42
    RT11: Final = 43
    RT12: Final = 44
    RT13: Final = 45
    RT14: Final = 46
    RT15: Final = 47
    RT16: Final = 48
    RT17: Final = 49
    RT18: Final = 50
    RT19: Final = 51
    RT20: Final = 52
    RT21: Final = 53
    RT22: Final = 54
    RT23: Final = 55
    RT24: Final = 56
    RT25: Final = 57
    RT26: Final = 58
    RT27: Final = 59
    RT28: Final = 60
    RT29: Final = 61
    RT30: Final = 62
    RT31: Final = 63
    RT32: Final = 64


class DomainRebootFlags:
    """virDomainRebootFlagValues"""

    DEFAULT: Final = 0
    ACPI_POWER_BTN: Final = 1
    GUEST_AGENT: Final = 2
    INITCTL: Final = 4
    SIGNAL: Final = 8
    PARAVIRT: Final = 16


class DomainRunningReason:
    """virDomainRunningReason"""

    UNKNOWN: Final = 0
    BOOTED: Final = 1
    MIGRATED: Final = 2
    RESTORED: Final = 3
    FROM_SNAPSHOT: Final = 4
    UNPAUSED: Final = 5
    MIGRATION_CANCELED: Final = 6
    SAVE_CANCELED: Final = 7
    WAKEUP: Final = 8
    CRASHED: Final = 9
    POSTCOPY: Final = 10
    POSTCOPY_FAILED: Final = 11


class DomainSaveRestoreFlags:
    """virDomainSaveRestoreFlags"""

    BYPASS_CACHE: Final = 1
    RUNNING: Final = 2
    PAUSED: Final = 4
    RESET_NVRAM: Final = 8


class DomainSaveImageXMLFlags:
    """virDomainSaveImageXMLFlags"""

    SECURE: Final = 1


class SchedParameterType:
    """virSchedParameterType"""

    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6


class DomainShutdownFlags:
    """virDomainShutdownFlagValues"""

    DEFAULT: Final = 0
    ACPI_POWER_BTN: Final = 1
    GUEST_AGENT: Final = 2
    INITCTL: Final = 4
    SIGNAL: Final = 8
    PARAVIRT: Final = 16


class DomainShutdownReason:
    """virDomainShutdownReason"""

    UNKNOWN: Final = 0
    USER: Final = 1


class DomainShutoffReason:
    """virDomainShutoffReason"""

    UNKNOWN: Final = 0
    SHUTDOWN: Final = 1
    DESTROYED: Final = 2
    CRASHED: Final = 3
    MIGRATED: Final = 4
    SAVED: Final = 5
    FAILED: Final = 6
    FROM_SNAPSHOT: Final = 7
    DAEMON: Final = 8


class DomainSnapshotCreateFlags:
    """virDomainSnapshotCreateFlags"""

    REDEFINE: Final = 1
    CURRENT: Final = 2
    NO_METADATA: Final = 4
    HALT: Final = 8
    DISK_ONLY: Final = 16
    REUSE_EXT: Final = 32
    QUIESCE: Final = 64
    ATOMIC: Final = 128
    LIVE: Final = 256
    VALIDATE: Final = 512


class DomainSnapshotDeleteFlags:
    """virDomainSnapshotDeleteFlags"""

    CHILDREN: Final = 1
    METADATA_ONLY: Final = 2
    CHILDREN_ONLY: Final = 4


class DomainSnapshotListFlags:
    """virDomainSnapshotListFlags"""

    DESCENDANTS: Final = 1
    ROOTS: Final = 1
    METADATA: Final = 2
    LEAVES: Final = 4
    NO_LEAVES: Final = 8
    NO_METADATA: Final = 16
    INACTIVE: Final = 32
    ACTIVE: Final = 64
    DISK_ONLY: Final = 128
    INTERNAL: Final = 256
    EXTERNAL: Final = 512
    TOPOLOGICAL: Final = 1024


class DomainSnapshotRevertFlags:
    """virDomainSnapshotRevertFlags"""

    RUNNING: Final = 1
    PAUSED: Final = 2
    FORCE: Final = 4
    RESET_NVRAM: Final = 8


class DomainSnapshotXMLFlags:
    """virDomainSnapshotXMLFlags"""

    SECURE: Final = 1


class DomainStatsTypes:
    """virDomainStatsTypes"""

    STATE: Final = 1
    CPU_TOTAL: Final = 2
    BALLOON: Final = 4
    VCPU: Final = 8
    INTERFACE: Final = 16
    BLOCK: Final = 32
    PERF: Final = 64
    IOTHREAD: Final = 128
    MEMORY: Final = 256
    DIRTYRATE: Final = 512
    VM: Final = 1024


class DomainSetTimeFlags:
    """virDomainSetTimeFlags"""

    TIME_SYNC: Final = 1


class DomainUndefineFlags:
    """virDomainUndefineFlagsValues"""

    MANAGED_SAVE: Final = 1
    SNAPSHOTS_METADATA: Final = 2
    NVRAM: Final = 4
    KEEP_NVRAM: Final = 8
    CHECKPOINTS_METADATA: Final = 16
    TPM: Final = 32
    KEEP_TPM: Final = 64


class DomainVcpuFlags:
    """virDomainVcpuFlags"""

    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2
    MAXIMUM: Final = 4
    GUEST: Final = 8
    HOTPLUGGABLE: Final = 16


class DomainXMLFlags:
    """virDomainXMLFlags"""

    SECURE: Final = 1
    INACTIVE: Final = 2
    UPDATE_CPU: Final = 4
    MIGRATABLE: Final = 8


class DomainCoreDumpFlags:
    """virDomainCoreDumpFlags"""

    CRASH: Final = 1
    LIVE: Final = 2
    BYPASS_CACHE: Final = 4
    RESET: Final = 8
    MEMORY_ONLY: Final = 16


class ErrorNumber:
    """virErrorNumber"""

    OK: Final = 0
    INTERNAL_ERROR: Final = 1
    NO_MEMORY: Final = 2
    NO_SUPPORT: Final = 3
    UNKNOWN_HOST: Final = 4
    NO_CONNECT: Final = 5
    INVALID_CONN: Final = 6
    INVALID_DOMAIN: Final = 7
    INVALID_ARG: Final = 8
    OPERATION_FAILED: Final = 9
    GET_FAILED: Final = 10
    POST_FAILED: Final = 11
    HTTP_ERROR: Final = 12
    SEXPR_SERIAL: Final = 13
    NO_XEN: Final = 14
    XEN_CALL: Final = 15
    OS_TYPE: Final = 16
    NO_KERNEL: Final = 17
    NO_ROOT: Final = 18
    NO_SOURCE: Final = 19
    NO_TARGET: Final = 20
    NO_NAME: Final = 21
    NO_OS: Final = 22
    NO_DEVICE: Final = 23
    NO_XENSTORE: Final = 24
    DRIVER_FULL: Final = 25
    CALL_FAILED: Final = 26
    XML_ERROR: Final = 27
    DOM_EXIST: Final = 28
    OPERATION_DENIED: Final = 29
    OPEN_FAILED: Final = 30
    READ_FAILED: Final = 31
    PARSE_FAILED: Final = 32
    CONF_SYNTAX: Final = 33
    WRITE_FAILED: Final = 34
    XML_DETAIL: Final = 35
    INVALID_NETWORK: Final = 36
    NETWORK_EXIST: Final = 37
    SYSTEM_ERROR: Final = 38
    RPC: Final = 39
    GNUTLS_ERROR: Final = 40
    WAR_NO_NETWORK: Final = 41
    NO_DOMAIN: Final = 42
    NO_NETWORK: Final = 43
    INVALID_MAC: Final = 44
    AUTH_FAILED: Final = 45
    INVALID_STORAGE_POOL: Final = 46
    INVALID_STORAGE_VOL: Final = 47
    WAR_NO_STORAGE: Final = 48
    NO_STORAGE_POOL: Final = 49
    NO_STORAGE_VOL: Final = 50
    WAR_NO_NODE: Final = 51
    INVALID_NODE_DEVICE: Final = 52
    NO_NODE_DEVICE: Final = 53
    NO_SECURITY_MODEL: Final = 54
    OPERATION_INVALID: Final = 55
    WAR_NO_INTERFACE: Final = 56
    NO_INTERFACE: Final = 57
    INVALID_INTERFACE: Final = 58
    MULTIPLE_INTERFACES: Final = 59
    WAR_NO_NWFILTER: Final = 60
    INVALID_NWFILTER: Final = 61
    NO_NWFILTER: Final = 62
    BUILD_FIREWALL: Final = 63
    WAR_NO_SECRET: Final = 64
    INVALID_SECRET: Final = 65
    NO_SECRET: Final = 66
    CONFIG_UNSUPPORTED: Final = 67
    OPERATION_TIMEOUT: Final = 68
    MIGRATE_PERSIST_FAILED: Final = 69
    HOOK_SCRIPT_FAILED: Final = 70
    INVALID_DOMAIN_SNAPSHOT: Final = 71
    NO_DOMAIN_SNAPSHOT: Final = 72
    INVALID_STREAM: Final = 73
    ARGUMENT_UNSUPPORTED: Final = 74
    STORAGE_PROBE_FAILED: Final = 75
    STORAGE_POOL_BUILT: Final = 76
    SNAPSHOT_REVERT_RISKY: Final = 77
    OPERATION_ABORTED: Final = 78
    AUTH_CANCELLED: Final = 79
    NO_DOMAIN_METADATA: Final = 80
    MIGRATE_UNSAFE: Final = 81
    OVERFLOW: Final = 82
    BLOCK_COPY_ACTIVE: Final = 83
    OPERATION_UNSUPPORTED: Final = 84
    SSH: Final = 85
    AGENT_UNRESPONSIVE: Final = 86
    RESOURCE_BUSY: Final = 87
    ACCESS_DENIED: Final = 88
    DBUS_SERVICE: Final = 89
    STORAGE_VOL_EXIST: Final = 90
    CPU_INCOMPATIBLE: Final = 91
    XML_INVALID_SCHEMA: Final = 92
    MIGRATE_FINISH_OK: Final = 93
    AUTH_UNAVAILABLE: Final = 94
    NO_SERVER: Final = 95
    NO_CLIENT: Final = 96
    AGENT_UNSYNCED: Final = 97
    LIBSSH: Final = 98
    DEVICE_MISSING: Final = 99
    INVALID_NWFILTER_BINDING: Final = 100
    NO_NWFILTER_BINDING: Final = 101
    INVALID_DOMAIN_CHECKPOINT: Final = 102
    NO_DOMAIN_CHECKPOINT: Final = 103
    NO_DOMAIN_BACKUP: Final = 104
    INVALID_NETWORK_PORT: Final = 105
    NETWORK_PORT_EXIST: Final = 106
    NO_NETWORK_PORT: Final = 107
    NO_HOSTNAME: Final = 108
    CHECKPOINT_INCONSISTENT: Final = 109
    MULTIPLE_DOMAINS: Final = 110
    NO_NETWORK_METADATA: Final = 111
    AGENT_COMMAND_TIMEOUT: Final = 112
    AGENT_COMMAND_FAILED: Final = 113


class ErrorDomain:
    """virErrorDomain"""

    NONE: Final = 0
    XEN: Final = 1
    XEND: Final = 2
    XENSTORE: Final = 3
    SEXPR: Final = 4
    XML: Final = 5
    DOM: Final = 6
    RPC: Final = 7
    PROXY: Final = 8
    CONF: Final = 9
    QEMU: Final = 10
    NET: Final = 11
    TEST: Final = 12
    REMOTE: Final = 13
    OPENVZ: Final = 14
    XENXM: Final = 15
    STATS_LINUX: Final = 16
    LXC: Final = 17
    STORAGE: Final = 18
    NETWORK: Final = 19
    DOMAIN: Final = 20
    UML: Final = 21
    NODEDEV: Final = 22
    XEN_INOTIFY: Final = 23
    SECURITY: Final = 24
    VBOX: Final = 25
    INTERFACE: Final = 26
    ONE: Final = 27
    ESX: Final = 28
    PHYP: Final = 29
    SECRET: Final = 30
    CPU: Final = 31
    XENAPI: Final = 32
    NWFILTER: Final = 33
    HOOK: Final = 34
    DOMAIN_SNAPSHOT: Final = 35
    AUDIT: Final = 36
    SYSINFO: Final = 37
    STREAMS: Final = 38
    VMWARE: Final = 39
    EVENT: Final = 40
    LIBXL: Final = 41
    LOCKING: Final = 42
    HYPERV: Final = 43
    CAPABILITIES: Final = 44
    URI: Final = 45
    AUTH: Final = 46
    DBUS: Final = 47
    PARALLELS: Final = 48
    DEVICE: Final = 49
    SSH: Final = 50
    LOCKSPACE: Final = 51
    INITCTL: Final = 52
    IDENTITY: Final = 53
    CGROUP: Final = 54
    ACCESS: Final = 55
    SYSTEMD: Final = 56
    BHYVE: Final = 57
    CRYPTO: Final = 58
    FIREWALL: Final = 59
    POLKIT: Final = 60
    THREAD: Final = 61
    ADMIN: Final = 62
    LOGGING: Final = 63
    XENXL: Final = 64
    PERF: Final = 65
    LIBSSH: Final = 66
    RESCTRL: Final = 67
    FIREWALLD: Final = 68
    DOMAIN_CHECKPOINT: Final = 69
    TPM: Final = 70
    BPF: Final = 71
    CH: Final = 72


class ErrorLevel:
    """virErrorLevel"""

    NONE: Final = 0
    WARNING: Final = 1
    ERROR: Final = 2


class EventHandleType:
    """virEventHandleType"""

    READABLE: Final = 1
    WRITABLE: Final = 2
    ERROR: Final = 4
    HANGUP: Final = 8


class InterfaceDefineFlags:
    """virInterfaceDefineFlags"""

    VALIDATE: Final = 1


class InterfaceXMLFlags:
    """virInterfaceXMLFlags"""

    INACTIVE: Final = 1


class IPAddrType:
    """virIPAddrType"""

    IPV4: Final = 0
    IPV6: Final = 1


class KeycodeSet:
    """virKeycodeSet"""

    LINUX: Final = 0
    XT: Final = 1
    ATSET1: Final = 2
    ATSET2: Final = 3
    ATSET3: Final = 4
    OSX: Final = 5
    XT_KBD: Final = 6
    USB: Final = 7
    WIN32: Final = 8
    QNUM: Final = 9


class DomainMemoryFlags:
    """virDomainMemoryFlags"""

    VIRTUAL: Final = 1
    PHYSICAL: Final = 2


class DomainMigrateFlags:
    """virDomainMigrateFlags"""

    LIVE: Final = 1
    PEER2PEER: Final = 2
    TUNNELLED: Final = 4
    PERSIST_DEST: Final = 8
    UNDEFINE_SOURCE: Final = 16
    PAUSED: Final = 32
    NON_SHARED_DISK: Final = 64
    NON_SHARED_INC: Final = 128
    CHANGE_PROTECTION: Final = 256
    UNSAFE: Final = 512
    OFFLINE: Final = 1024
    COMPRESSED: Final = 2048
    ABORT_ON_ERROR: Final = 4096
    AUTO_CONVERGE: Final = 8192
    RDMA_PIN_ALL: Final = 16384
    POSTCOPY: Final = 32768
    TLS: Final = 65536
    PARALLEL: Final = 131072
    NON_SHARED_SYNCHRONOUS_WRITES: Final = 262144
    POSTCOPY_RESUME: Final = 524288
    ZEROCOPY: Final = 1048576


class NetworkCreateFlags:
    """virNetworkCreateFlags"""

    VALIDATE: Final = 1


class NetworkDefineFlags:
    """virNetworkDefineFlags"""

    VALIDATE: Final = 1


class NetworkEventLifecycleType:
    """virNetworkEventLifecycleType"""

    DEFINED: Final = 0
    UNDEFINED: Final = 1
    STARTED: Final = 2
    STOPPED: Final = 3


class NetworkEventID:
    """virNetworkEventID"""

    LIFECYCLE: Final = 0
    METADATA_CHANGE: Final = 1


class NetworkMetadataType:
    """virNetworkMetadataType"""

    DESCRIPTION: Final = 0
    TITLE: Final = 1
    ELEMENT: Final = 2


class NetworkPortCreateFlags:
    """virNetworkPortCreateFlags"""

    RECLAIM: Final = 1
    VALIDATE: Final = 2


class NetworkUpdateSection:
    """virNetworkUpdateSection"""

    NONE: Final = 0
    BRIDGE: Final = 1
    DOMAIN: Final = 2
    IP: Final = 3
    IP_DHCP_HOST: Final = 4
    IP_DHCP_RANGE: Final = 5
    FORWARD: Final = 6
    FORWARD_INTERFACE: Final = 7
    FORWARD_PF: Final = 8
    PORTGROUP: Final = 9
    DNS_HOST: Final = 10
    DNS_TXT: Final = 11
    DNS_SRV: Final = 12


class NetworkUpdateFlags:
    """virNetworkUpdateFlags"""

    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2


class NetworkUpdateCommand:
    """virNetworkUpdateCommand"""

    NONE: Final = 0
    MODIFY: Final = 1
    DELETE: Final = 2
    ADD_FIRST: Final = 4


class NetworkXMLFlags:
    """virNetworkXMLFlags"""

    INACTIVE: Final = 1


class NodeAllocPagesFlags:
    """virNodeAllocPagesFlags"""

    ADD: Final = 0
    SET: Final = 1


class NodeGetCPUStatsAllCPUs:
    """virNodeGetCPUStatsAllCPUs"""

    CPU_STATS_ALL_CPUS: Final = -1


class NodeDeviceCreateXMLFlags:
    """virNodeDeviceCreateXMLFlags"""

    VALIDATE: Final = 1


class NodeDeviceDefineXMLFlags:
    """virNodeDeviceDefineXMLFlags"""

    VALIDATE: Final = 1


class NodeDeviceEventLifecycleType:
    """virNodeDeviceEventLifecycleType"""

    CREATED: Final = 0
    DELETED: Final = 1
    DEFINED: Final = 2
    UNDEFINED: Final = 3


class NodeDeviceEventID:
    """virNodeDeviceEventID"""

    LIFECYCLE: Final = 0
    UPDATE: Final = 1


class NodeDeviceUpdateFlags:
    """virNodeDeviceUpdateFlags"""

    CURRENT: Final = 0
    LIVE: Final = 1
    CONFIG: Final = 2


class NodeDeviceXMLFlags:
    """virNodeDeviceXMLFlags"""

    INACTIVE: Final = 1


class NodeGetMemoryStatsAllCells:
    """virNodeGetMemoryStatsAllCells"""

    MEMORY_STATS_ALL_CELLS: Final = -1


class NodeSuspendTarget:
    """virNodeSuspendTarget"""

    MEM: Final = 0
    DISK: Final = 1
    HYBRID: Final = 2


class NWFilterBindingCreateFlags:
    """virNWFilterBindingCreateFlags"""

    NWFILTER_BINDING_CREATE_VALIDATE: Final = 1


class NWFilterDefineFlags:
    """virNWFilterDefineFlags"""

    NWFILTER_DEFINE_VALIDATE: Final = 1


class SecretDefineFlags:
    """virSecretDefineFlags"""

    VALIDATE: Final = 1


class SecretEventLifecycleType:
    """virSecretEventLifecycleType"""

    DEFINED: Final = 0
    UNDEFINED: Final = 1


class SecretEventID:
    """virSecretEventID"""

    LIFECYCLE: Final = 0
    VALUE_CHANGED: Final = 1


class SecretUsageType:
    """virSecretUsageType"""

    NONE: Final = 0
    VOLUME: Final = 1
    CEPH: Final = 2
    ISCSI: Final = 3
    TLS: Final = 4
    VTPM: Final = 5


class StoragePoolState:
    """virStoragePoolState"""

    INACTIVE: Final = 0
    BUILDING: Final = 1
    RUNNING: Final = 2
    DEGRADED: Final = 3
    INACCESSIBLE: Final = 4


class StoragePoolBuildFlags:
    """virStoragePoolBuildFlags"""

    NEW: Final = 0
    REPAIR: Final = 1
    RESIZE: Final = 2
    NO_OVERWRITE: Final = 4
    OVERWRITE: Final = 8


class StoragePoolCreateFlags:
    """virStoragePoolCreateFlags"""

    NORMAL: Final = 0
    WITH_BUILD: Final = 1
    WITH_BUILD_OVERWRITE: Final = 2
    WITH_BUILD_NO_OVERWRITE: Final = 4


class StoragePoolDefineFlags:
    """virStoragePoolDefineFlags"""

    VALIDATE: Final = 1


class StoragePoolDeleteFlags:
    """virStoragePoolDeleteFlags"""

    NORMAL: Final = 0
    ZEROED: Final = 1


class StoragePoolEventLifecycleType:
    """virStoragePoolEventLifecycleType"""

    DEFINED: Final = 0
    UNDEFINED: Final = 1
    STARTED: Final = 2
    STOPPED: Final = 3
    CREATED: Final = 4
    DELETED: Final = 5


class StoragePoolEventID:
    """virStoragePoolEventID"""

    LIFECYCLE: Final = 0
    REFRESH: Final = 1


class StorageVolType:
    """virStorageVolType"""

    FILE: Final = 0
    BLOCK: Final = 1
    DIR: Final = 2
    NETWORK: Final = 3
    NETDIR: Final = 4
    PLOOP: Final = 5


class StorageVolCreateFlags:
    """virStorageVolCreateFlags"""

    PREALLOC_METADATA: Final = 1
    REFLINK: Final = 2
    VALIDATE: Final = 4


class StorageVolDeleteFlags:
    """virStorageVolDeleteFlags"""

    NORMAL: Final = 0
    ZEROED: Final = 1
    WITH_SNAPSHOTS: Final = 2


class StorageVolDownloadFlags:
    """virStorageVolDownloadFlags"""

    SPARSE_STREAM: Final = 1


class StorageVolInfoFlags:
    """virStorageVolInfoFlags"""

    USE_ALLOCATION: Final = 0
    GET_PHYSICAL: Final = 1


class StorageVolResizeFlags:
    """virStorageVolResizeFlags"""

    ALLOCATE: Final = 1
    DELTA: Final = 2
    SHRINK: Final = 4


class StorageVolUploadFlags:
    """virStorageVolUploadFlags"""

    SPARSE_STREAM: Final = 1


class StorageVolWipeAlgorithm:
    """virStorageVolWipeAlgorithm"""

    ZERO: Final = 0
    NNSA: Final = 1
    DOD: Final = 2
    BSI: Final = 3
    GUTMANN: Final = 4
    SCHNEIER: Final = 5
    PFITZNER7: Final = 6
    PFITZNER33: Final = 7
    RANDOM: Final = 8
    TRIM: Final = 9


class StorageXMLFlags:
    """virStorageXMLFlags"""

    INACTIVE: Final = 1


class StreamEventType:
    """virStreamEventType"""

    READABLE: Final = 1
    WRITABLE: Final = 2
    ERROR: Final = 4
    HANGUP: Final = 8


class StreamFlags:
    """virStreamFlags"""

    NONBLOCK: Final = 1


class StreamRecvFlags:
    """virStreamRecvFlagsValues"""

    STOP_AT_HOLE: Final = 1


class TypedParameterType:
    """virTypedParameterType"""

    INT: Final = 1
    UINT: Final = 2
    LLONG: Final = 3
    ULLONG: Final = 4
    DOUBLE: Final = 5
    BOOLEAN: Final = 6
    STRING: Final = 7


class TypedParameterFlags:
    """virTypedParameterFlags"""

    PARAM_STRING_OKAY: Final = 4


class VcpuState:
    """virVcpuState"""

    OFFLINE: Final = 0
    RUNNING: Final = 1
    BLOCKED: Final = 2


class VcpuHostCpuState:
    """virVcpuHostCpuState"""

    UNAVAILABLE: Final = -2
    OFFLINE: Final = -1


class ConnectDomainQemuMonitorEventRegisterFlags:
    """virConnectDomainQemuMonitorEventRegisterFlags"""

    REGEX: Final = 1
    NOCASE: Final = 2


class DomainQemuAgentCommandTimeout:
    """virDomainQemuAgentCommandTimeoutValues"""

    BLOCK: Final = -2
    MIN: Final = -2
    DEFAULT: Final = -1
    NOWAIT: Final = 0
    SHUTDOWN: Final = 60


class DomainQemuMonitorCommandFlags:
    """virDomainQemuMonitorCommandFlags"""

    DEFAULT: Final = 0
    HMP: Final = 1
