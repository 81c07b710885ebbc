"""Filters of system calls (seccomp, classic BPF) for the sandbox: numbers by processor, no library needed.

Two filters: `sandbox_filter` is on everything in a sandbox, its server included; `program_filter` comes on top for the one
process that runs a program, which may start neither processes nor threads, nor signal anybody.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_JMP|JSET|K, BPF_RET|K (linux/bpf_common.h)."""
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Places in struct seccomp_data (linux/seccomp.h)."""
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME (linux/sched.h)."""
_X32 = 0x40000000
_LATER = 424
"""Calls since Linux 5.1, numbered alike everywhere (io_uring, pidfd, clone3, new mounts): as if the kernel had none of them."""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of the processors whose calls are known (linux/audit.h)."""

_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # name: (x86_64, aarch64)
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "capset": (126, 91),
    "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112), "clone": (56, 220),
    "create_module": (174, None), "delete_module": (176, 106), "execve": (59, 221), "execveat": (322, 281),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fork": (57, None), "get_kernel_syms": (177, None),
    "init_module": (175, 105), "inotify_init": (253, None), "inotify_init1": (294, 26), "ioctl": (16, 29),
    "ioperm": (173, None), "iopl": (172, None), "ioprio_set": (251, 30), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "kill": (62, 129),
    "lookup_dcookie": (212, 18), "mbind": (237, 235), "memfd_create": (319, 279), "migrate_pages": (256, 238),
    "mknod": (133, None), "mknodat": (259, 33), "modify_ldt": (154, None), "mount": (165, 40),
    "move_pages": (279, 239), "mq_open": (240, 180), "mq_unlink": (241, 181), "msgctl": (71, 187),
    "msgget": (68, 186), "msgrcv": (70, 188), "msgsnd": (69, 189), "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42), "open_by_handle_at": (304, 265), "perf_event_open": (298, 241), "personality": (135, 92),
    "pivot_root": (155, 41), "prctl": (157, 167), "prlimit64": (302, 261), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "query_module": (178, None), "quotactl": (179, 60),
    "reboot": (169, 142), "remap_file_pages": (216, 234), "request_key": (249, 218), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "seccomp": (317, 277), "semctl": (66, 191),
    "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "set_mempolicy": (238, 237),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "setpriority": (141, 140),
    "setrlimit": (160, 164), "settimeofday": (164, 170), "shmat": (30, 196), "shmctl": (31, 195),
    "shmget": (29, 194), "socket": (41, 198), "socketpair": (53, 199), "swapoff": (168, 225), "swapon": (167, 224),
    "splice": (275, 76), "sysfs": (139, None), "syslog": (103, 116), "tee": (276, 77), "tgkill": (234, 131), "timer_create": (222, 107), "tkill": (200, 130),
    "umount2": (166, 39), "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282),
    "ustat": (136, None), "vfork": (58, None), "vhangup": (153, 58), "vmsplice": (278, 75), "_sysctl": (156, None),
}  # fmt: skip

_SANDBOX = (
    # looking into other processes, and into the kernel
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "bpf", "perf_event_open", "userfaultfd", "syslog", "lookup_dcookie",
    "modify_ldt", "personality", "splice", "tee", "vmsplice", "_sysctl", "uselib", "nfsservctl",
    # other roots, mounts, namespaces, files by handle
    "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat",
    "quotactl", "acct", "fanotify_init", "inotify_init", "inotify_init1", "sysfs", "ustat",
    # the machine
    "swapon", "swapoff", "reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module",
    "query_module", "get_kernel_syms", "iopl", "ioperm", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex",
    "sethostname", "setdomainname", "vhangup", "capset",
    # memory and messages that outlive a process, or that no limit counts
    "shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semctl", "semtimedop", "mq_open",
    "mq_unlink", "memfd_create", "keyctl", "add_key", "request_key", "mbind", "set_mempolicy", "migrate_pages", "move_pages",
    "remap_file_pages", "timer_create",
    # the network
    "socket", "socketpair",
)  # fmt: skip
_PROGRAM = (
    "clone", "fork", "vfork", "execve", "execveat", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "setrlimit",
    "prctl", "seccomp", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "setpriority", "ioprio_set",
)  # fmt: skip

Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, operand): struct sock_filter."""


def sandbox_filter(machine: str | None = None) -> bytes | None:
    """The filter of everything in a sandbox as struct sock_filter[]; None where the processor's calls are not known.

    Namespaces may not be made, nor anything of `_SANDBOX` called: EPERM. Calls of another architecture end the process.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return None
    clone = _number("clone", machine)
    assert clone is not None
    new_namespace = _with_bits(clone, 0, _NEW_NAMESPACES)
    return _packed([*_beginning(machine), *_refused(_SANDBOX, machine), *new_namespace, (_RETURN, 0, 0, _ALLOW)])


def program_filter(machine: str | None = None) -> bytes | None:
    """What a program itself may not call, on top of `sandbox_filter`, which it repeats for a program without a sandbox."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return None
    limit, ioctl = _number("prlimit64", machine), _number("ioctl", machine)
    assert limit is not None and ioctl is not None
    rules = [
        *_beginning(machine),
        *_refused((*_SANDBOX, *_PROGRAM), machine),
        (_EQUAL, 0, 1, ioctl),
        (_RETURN, 0, 0, _ERRNO | errno.ENOTTY),  # what a pipe says too
        *_unless_null(limit, 2),  # a limit may be read: its new value is NULL then
        (_RETURN, 0, 0, _ALLOW),
    ]
    return _packed(rules)


def _number(name: str, machine: str) -> int | None:
    return _NUMBERS[name][list(ARCHITECTURES).index(machine)]


def _beginning(machine: str) -> list[Instruction]:
    foreign: list[Instruction] = [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)] if machine == "x86_64" else []
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *foreign,
        (_AT_LEAST, 0, 1, _LATER),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]


def _refused(names: Iterable[str], machine: str) -> list[Instruction]:
    rules: list[Instruction] = []
    for name in names:
        number = _number(name, machine)
        if number is not None:
            rules += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return rules


def _unless_null(number: int, place: int) -> list[Instruction]:
    """Refuse a call whose argument is no NULL."""
    low = _ARGUMENTS + 8 * place
    body: list[Instruction] = [
        (_LOAD, 0, 0, low),
        (_EQUAL, 0, 2, 0),
        (_LOAD, 0, 0, low + 4),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    return _only(number, body)


def _with_bits(number: int, place: int, bits: int) -> list[Instruction]:
    """Refuse a call whose argument has any of these bits, all in its low half."""
    low = _ARGUMENTS + 8 * place
    return _only(number, [(_LOAD, 0, 0, low), (_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _ERRNO | errno.EPERM)])


def _only(number: int, body: list[Instruction]) -> list[Instruction]:
    return [(_EQUAL, 0, len(body) + 1, number), *body, (_LOAD, 0, 0, _NUMBER)]


def _packed(rules: Iterable[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *rule) for rule in rules)
