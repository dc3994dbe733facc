"""What Linux has and macOS has not: names of Python's modules for the system."""

LINUX_ALONE = frozenset(
    {  # by the documentation of Python 3.13 ("Availability")
        *("fdatasync", "posix_fallocate", "posix_fadvise", "copy_file_range", "splice", "memfd_create"),
        *("eventfd", "timerfd_create", "pipe2", "getrandom", "pidfd_open", "pidfd_send_signal", "epoll"),
        *("sched_getaffinity", "sched_setaffinity", "setns", "unshare", "waitid", "prlimit", "plock"),
        *("getxattr", "setxattr", "listxattr", "removexattr"),
        *("getresuid", "getresgid", "setresuid", "setresgid"),
        *("RWF_APPEND", "RWF_DSYNC", "RWF_HIPRI", "RWF_NOWAIT", "RWF_SYNC"),
        *("O_DIRECT", "O_NOATIME", "O_PATH", "O_TMPFILE", "O_LARGEFILE", "O_RSYNC"),
        *("RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_SIGPENDING", "RUSAGE_THREAD"),
        *("sigtimedwait", "sigwaitinfo", "SIGPWR", "SIGRTMIN", "SIGRTMAX", "SIGSTKFLT", "SIGPOLL", "SIGCLD"),
        *("MAP_POPULATE", "MADV_HUGEPAGE", "MADV_POPULATE_READ", "MADV_DONTFORK", "MADV_DODUMP"),
        *("CLOCK_BOOTTIME", "CLOCK_TAI", "pthread_getcpuclockid", "SO_PEERCRED", "AF_NETLINK"),
        *("F_SETPIPE_SZ", "F_ADD_SEALS", "F_OFD_SETLK", "F_SETLEASE"),
    }
)
