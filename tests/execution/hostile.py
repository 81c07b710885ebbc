"""Programs that try to get out, to break what comes after them, or to stay.

Each prints ESCAPED where it reached what it may not. SECRET, PORT, PID, SOCKET and FOLDER are replaced by a file of the host, a
port on which it listens, a process of its own, an abstract socket and a folder that it may write to. `quick` ones end
early; the others use up their time.
"""

from __future__ import annotations

ESCAPED = "ESCAPED"

FILES = {
    "read a file of the host": "print('ESCAPED', open('SECRET').read())",
    "read /etc/passwd": "print('ESCAPED', open('/etc/passwd').read())",
    "read /etc/shadow by its parts": "import os\nfd = os.open('/', os.O_RDONLY)\nprint('ESCAPED', os.open('etc/shadow', os.O_RDONLY, dir_fd=fd))",
    "climb out by ..": "print('ESCAPED', open('/tmp' + '/..' * 40 + 'SECRET').read())",
    "list home folders": "import os\nprint('ESCAPED', os.listdir('/home'))",
    "walk everything for the host's file": (
        "import os\nwanted = os.path.basename('SECRET')\n"
        "for folder, _, files in os.walk('/'):\n    if wanted in files: print('ESCAPED', folder)\n    if folder.count('/') > 4: continue\n"
        "    if 'passwd' in files: print('ESCAPED', folder)\nprint('walked')"
    ),
    "symlink to a file of the host": "import os\nos.symlink('SECRET', '/tmp/link')\nprint('ESCAPED', open('/tmp/link').read())",
    "hard link to the interpreter": "import os, sys\nos.link(sys.executable, '/tmp/python')\nprint('ESCAPED')",
    "symlink left for the next program": "import os\nos.symlink('/', '/tmp/root')\nos.symlink('/tmp', '/tmp/again')\nans = 1",
    "symlink in place of a folder that is cleaned": "import os, sys\nos.mkdir('/tmp/a')\nos.symlink(os.path.dirname(os.__file__), '/tmp/a/b')\nans = 1",
    "write into the standard library": "import os\nopen(os.path.join(os.path.dirname(os.__file__), 'evil.py'), 'w').write('x')\nprint('ESCAPED')",
    "write into numpy": "import numpy\nopen(numpy.__file__, 'a').write('#')\nprint('ESCAPED')",
    "write at the root": "open('/evil', 'w').write('x')\nprint('ESCAPED')",
    "make a folder at the root": "import os\nos.mkdir('/evil')\nprint('ESCAPED')",
    "replace the server": "open('/server.py', 'w').write('')\nprint('ESCAPED')",
    "delete the server": "import os\nos.unlink('/server.py')\nprint('ESCAPED')",
    "change modes of the interpreter": "import os, sys\nos.chmod(sys.executable, 0o777)\nprint('ESCAPED')",
    "change times of the interpreter": "import os, sys\nos.utime(sys.executable, (0, 0))\nprint('ESCAPED')",
    "change the owner of the interpreter": "import os, sys\nos.chown(sys.executable, 1, 1)\nprint('ESCAPED')",
    "remove a module": "import os\nos.unlink(os.__file__)\nprint('ESCAPED')",
    "rename a folder of the interpreter": "import os\nos.rename(os.path.dirname(os.__file__), '/tmp/lib')\nprint('ESCAPED')",
    "set an extended attribute": "import os, sys\nos.setxattr(sys.executable, 'user.x', b'1')\nprint('ESCAPED')",
    "make a device": "import os, stat\nos.mknod('/tmp/disk', stat.S_IFBLK | 0o666, os.makedev(253, 0))\nprint('ESCAPED')",
    "open a device": "print('ESCAPED', open('/dev/vda', 'rb').read(1), open('/dev/mem', 'rb').read(1))",
    "open a file by handle": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).open_by_handle_at(-100, b'x', 0) >= 0 else 'refused')",
    "lock out the next program": "import os\nos.chmod('/tmp', 0)\nans = 1",
    "leave unreadable folders": "import os\nos.mkdir('/tmp/x')\nopen('/tmp/x/y', 'w')\nos.chmod('/tmp/x', 0)\nans = 1",
    "leave a folder deeper than any path": "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nans = 1",
    "leave names that are no text": "import os\nos.mkdir(b'/tmp/\\xff\\xfe')\nopen(b'/tmp/\\xff\\xfe/\\n', 'w')\nans = 1",
    "leave a module for the next program": "open('/tmp/math.py', 'w').write('evil = 1')\nopen('/tmp/sympy.py', 'w').write('evil = 1')\nans = 1",
    "leave a pipe for the server to hang on": "import os\nos.mkfifo('/tmp/pipe')\nans = 1",
}  # fmt: skip

PROC = {
    "list processes": "import os\nprint('ESCAPED', [one for one in os.listdir('/proc') if one.isdigit()])",
    "read its own memory": "print('ESCAPED', open('/proc/self/mem', 'rb'))",
    "read the server's memory": "print('ESCAPED', open('/proc/1/mem', 'rb'), open('/proc/1/environ').read())",
    "leave by the server's root": "import os\nprint('ESCAPED', os.listdir('/proc/1/root/'))",
    "leave by the server's descriptors": "print('ESCAPED', open('/proc/1/fd/1', 'w'))",
    "write kernel settings": "open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/sh')\nprint('ESCAPED')",
    "mount proc": "import ctypes, os\nos.mkdir('/tmp/p')\nprint('ESCAPED' if ctypes.CDLL(None).mount(b'proc', b'/tmp/p', b'proc', 0, None) == 0 else 'refused')",
    "read the system's folders": "import os\nprint('ESCAPED', os.listdir('/sys/fs/cgroup'))",
    "read process memory by a call": (
        "import ctypes\nclass V(ctypes.Structure):\n    _fields_ = [('a', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n"
        "b = ctypes.create_string_buffer(64)\nmine, other = V(ctypes.addressof(b), 64), V(id(b), 64)\n"
        "print('ESCAPED' if ctypes.CDLL(None).process_vm_readv(1, ctypes.byref(mine), 1, ctypes.byref(other), 1, 0) > 0 else 'refused')"
    ),
    "trace the server": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 else 'refused')",
    "trace itself": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else 'refused')",
    "open the server by pidfd": "import os\nprint('ESCAPED', os.pidfd_open(1))",
}  # fmt: skip

NETWORK = {
    "connect to the host": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)\nprint('ESCAPED')",
    "connect to the world": "import urllib.request\nprint('ESCAPED', urllib.request.urlopen('http://1.1.1.1', timeout=1))",
    "connect to an abstract socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0SOCKET')\nprint('ESCAPED')",
    "listen": "import socket\ns = socket.socket()\ns.bind(('0.0.0.0', 0))\ns.listen()\nprint('ESCAPED')",
    "send a datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))\nprint('ESCAPED')",
    "raw socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nprint('ESCAPED')",
    "talk to the kernel by netlink": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\nprint('ESCAPED')",
    "look up a name": "import socket\nprint('ESCAPED', socket.getaddrinfo('example.com', 80))",
    "make a socket behind Python's back": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(41, 2, 1, 0) >= 0 else 'refused')",
    "make a socket pair": "import socket\nsocket.socketpair()\nprint('ESCAPED')",
    "make a socket by io_uring": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(256)) >= 0 else 'refused')",
}  # fmt: skip

PROCESSES = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "fork bomb that swallows errors": "import os\nfor _ in range(10000):\n    try:\n        os.fork(); print('ESCAPED')\n    except OSError: pass\nans = 1",
    "fork behind Python's back": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).fork() >= 0 else 'refused')",
    "vfork": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).vfork() > 0 else 'refused')",
    "clone in new namespaces": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(56, 0x10000000 | 17, 0, 0, 0, 0) >= 0 else 'refused')",
    "clone3": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(435, ctypes.create_string_buffer(88), 88) >= 0 else 'refused')",
    "thread bomb": "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()",
    "thread bomb that swallows errors": "import _thread\nfor _ in range(10000):\n    try:\n        _thread.start_new_thread(print, ('ESCAPED',))\n    except RuntimeError: pass\nans = 1",
    "run a shell": "import os\nprint('ESCAPED' if os.system('true') == 0 else 'refused')",
    "run a program": "import subprocess\nprint('ESCAPED', subprocess.run(['/bin/sh', '-c', 'id'], capture_output=True))",
    "run the interpreter again": "import subprocess, sys\nprint('ESCAPED', subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True))",
    "become another program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(\"ESCAPED\")'])",
    "execveat": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(322, -100, b'/bin/sh', 0, 0, 0) == 0 else 'refused')",
    "double fork that outlives its parent": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\nprint('ESCAPED')",
    "process pool": "import multiprocessing\nprint('ESCAPED', multiprocessing.Pool(2).map(abs, [1]))",
    "thread pool": "from concurrent.futures import ThreadPoolExecutor\nprint('ESCAPED', list(ThreadPoolExecutor(2).map(abs, [1])))",
    "kill the server": "import os\nos.kill(1, 9)\nprint('ESCAPED')",
    "interrupt the server": "import os, signal\nos.kill(1, signal.SIGINT)\nprint('ESCAPED')",
    "stop everything": "import os, signal\nos.kill(-1, signal.SIGSTOP)\nprint('ESCAPED')",
    "kill its group": "import os\nos.killpg(0, 9)\nprint('ESCAPED')",
    "kill a process of the host": "import os\nos.kill(PID, 9)\nprint('ESCAPED')",
    "signal behind Python's back": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(62, 1, 9) == 0 else 'refused')",
    "queue a signal": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).sigqueue(1, 2, 0) == 0 else 'refused')",
    "let the kernel signal the server": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, 1)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')\nans = 1",
    "wait for the server": "import os\nprint('ESCAPED', os.waitpid(-1, 0))",
    "slow the others down": "import os\nos.setpriority(os.PRIO_PROCESS, 0, -20)\nprint('ESCAPED')",
    "take a processor for good": "import os\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))\nprint('ESCAPED')",
}  # fmt: skip

KERNEL = {
    "new user namespace": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).unshare(0x10000000) == 0 else 'refused')",
    "new mount namespace": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).unshare(0x00020000) == 0 else 'refused')",
    "mount a tmpfs": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0 else 'refused')",
    "make the root writable": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).mount(b'x', b'/', None, 32, None) == 0 else 'refused')",
    "unmount": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).umount2(b'/tmp', 2) == 0 else 'refused')",
    "chroot": "import os\nos.mkdir('/tmp/r')\nos.chroot('/tmp/r')\nprint('ESCAPED')",
    "pivot_root": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(155, b'/tmp', b'/tmp') == 0 else 'refused')",
    "become root": "import os\nos.setuid(0)\nprint('ESCAPED')",
    "take capabilities": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).prctl(47, 2, 21, 0, 0) == 0 else 'refused')",
    "load a filter program": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(321, 0, ctypes.create_string_buffer(64), 64) >= 0 else 'refused')",
    "count events": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(298, ctypes.create_string_buffer(128), 0, -1, -1, 0) >= 0 else 'refused')",
    "handle page faults": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(323, 0) >= 0 else 'refused')",
    "keep a key": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(248, b'user', b'x', b'y', 1, -3) > 0 else 'refused')",
    "shared memory that stays": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).shmget(77, 4096, 0o1666) >= 0 else 'refused')",
    "named shared memory": "from multiprocessing import shared_memory\nprint('ESCAPED', shared_memory.SharedMemory('evil', create=True, size=4096))",
    "a message queue that stays": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).msgget(77, 0o1666) >= 0 else 'refused')",
    "memory without a name": "import os\nprint('ESCAPED', os.memfd_create('x'))",
    "set the clock": "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)\nprint('ESCAPED')",
    "rename the machine": "import socket\nsocket.sethostname('evil')\nprint('ESCAPED')",
    "load a kernel module": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(175, b'x', 1, b'') == 0 else 'refused')",
    "reboot": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).reboot(0x01234567) == 0 else 'refused')",
    "calls of another architecture": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0) >= 0 else 'refused')",
    "raise its limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nprint('ESCAPED')",
    "raise the server's limits": "import resource\nresource.prlimit(1, resource.RLIMIT_NOFILE, (1, 1))\nprint('ESCAPED')",
    "survive its parent": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0 else 'refused')",
    "drop the filter": "import ctypes\nprint('ESCAPED' if ctypes.CDLL(None).prctl(22, 0, 0, 0, 0) == 0 else 'refused')",
    "type into a terminal": "import fcntl\nfor fd in range(4):\n    try:\n        fcntl.ioctl(fd, 0x5412, b'x'); print('ESCAPED')\n    except OSError: pass\nans = 1",
    "take a terminal": "import os\nos.open('/dev/tty', os.O_RDWR)\nprint('ESCAPED')",
    "move pages between pipes": "import os\nr, w = os.pipe()\nfd = os.open('/server.py', os.O_RDONLY)\nos.splice(fd, w, 10)\nprint('ESCAPED')",
    "execute memory": "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x27\\0\\0\\0\\x0f\\x05\\xc3')\nans = 1",
}  # fmt: skip

PYTHON = {
    "find a way by subclasses": (
        "for one in ().__class__.__base__.__subclasses__():\n    if one.__name__ == 'Popen' or one.__name__ == '_wrap_close':\n"
        "        one.__init__.__globals__.get('system', print)('true')\nprint('looked')"
    ),
    "use the server's functions": "import sys\nframe = sys._getframe()\nwhile frame.f_back: frame = frame.f_back\nframe.f_globals['_send']({'id': 1, 'value': 'forged'})\nans = 1",
    "write to every descriptor": "import os\nfor fd in range(4, 1024):\n    try:\n        os.write(fd, b'\\0\\0\\0\\2{}'); print('ESCAPED', fd)\n    except OSError: pass\nans = 1",
    "read every descriptor": "import os\nfor fd in range(4, 1024):\n    try:\n        os.fstat(fd); print('ESCAPED', fd)\n    except OSError: pass\nans = 1",
    "forge a report": "import json, os\nos.write(3, json.dumps({'value': 'forged', 'id': 1, 'clean': True}).encode())\nos._exit(0)",
    "report what is no report": "import os\nos.write(3, b'[' * 100000)\nos._exit(0)",
    "report a number for a text": "import os\nos.write(3, b'{\"value\": 1e999, \"failure\": [1], \"message\": {}}')\nos._exit(0)",
    "send a frame on standard output": "import os\nos.write(1, b'\\0\\0\\0\\x1b{\"id\": 2, \"value\": \"forged\"}')\nans = 1",
    "change the server's modules": "import json, os, sys\njson.dumps = os.write = os.waitpid = None\nsys.modules.clear()\nans = 1",
    "read the environment": "import os\nprint('ESCAPED' if any('SECRET_WORD' in v for v in os.environ.values()) else 'clean')",
    "close standard output": "import sys\nsys.stdout.close()\nans = 1",
    "close every descriptor": "import os\nos.closerange(0, 1024)\nans = 1",
    "end at once": "import os\nos._exit(0)",
    "exit in an odd way": "raise SystemExit('no')",
    "raise what is no exception": "class Odd(BaseException):\n    def __str__(self): raise Odd\nraise Odd",
    "a value that cannot be written": "class Odd:\n    def __str__(self): return 1\ndef solution(): return Odd()",
    "a value of surrogates": "def solution(): return '\\ud800' * 10",
    "an exception with a long name": "raise type('E' * 10000, (Exception,), {})('m' * 100000)",
    "follow a null pointer": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "recurse without end": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()",
    "nest without end": "exec('(' * 100000)",
    "a program of NUL bytes": "a\0b",
    "corrupt the heap": "import ctypes\nctypes.memset(id(None), 0xff, 1 << 12)",
    "ask a question": "print('ESCAPED', input())",
    "dump core": "import resource, ctypes\nprint('ESCAPED' if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0 else 'none')\nctypes.string_at(1)",
}  # fmt: skip

MEMORY = {
    "much memory": "x = bytearray(1 << 36)",
    "memory bit by bit": "x = []\nwhile True:\n    x.append(bytearray(1 << 20))",
    "memory by numpy": "import numpy\nx = numpy.ones(1 << 33)",
    "memory shared with nobody": "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(100)]",
    "one large file": "with open('/tmp/x', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
    "many files": "for i in range(64):\n    open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))\nprint('ESCAPED')",
    "very many files": "i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').close()\n    i += 1",
    "a file with a hole": "import os\nos.truncate(os.open('/tmp/x', os.O_RDWR | os.O_CREAT), 1 << 40)\nprint('ESCAPED')",
    "reserve a file": "import os\nos.posix_fallocate(os.open('/tmp/x', os.O_RDWR | os.O_CREAT), 0, 1 << 30)\nprint('ESCAPED')",
    "many descriptors": "import os\nx = [os.dup(0) for _ in range(100000)]\nprint('ESCAPED')",
    "fill pipes": "import os\nx = [os.pipe() for _ in range(1000)]\nprint('ESCAPED')",
    "lock memory": "import ctypes, resource\nb = ctypes.create_string_buffer(1 << 24)\nprint('ESCAPED' if ctypes.CDLL(None).mlock(b, 1 << 24) == 0 else 'refused')",
    "huge output": "print('x' * 10**8)",
    "output without end": "while True: print('x' * 1000)",
    "errors without end": "import sys\nfor _ in range(2000): sys.stderr.write('x' * 10000)\nans = 1",
    "a long value": "def solution(): return 'x' * 10**7",
    "a huge number as text": "print(10**100000)",
    "a text of a thousand million": "ans = 'ab' * 10**9",
}  # fmt: skip

SLOW = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(600)",
    "loop and catch everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "ignore every signal": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "block every signal": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "huge numbers": "x = 9**9**9",
    "one long call": "sum(range(10**12))",
    "a regular expression": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "wait on a pipe": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "close output and sleep": "import os, time\nos.closerange(0, 64)\ntime.sleep(600)",
    "a timer that kills the wrong one": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.001)\nsignal.signal(signal.SIGALRM, lambda *_: None)\nwhile True: pass",
    "sympy without end": "import sympy\nx = sympy.Symbol('x')\nsympy.factorint(2**521 - 1 + 2**300)\nsympy.integrate(sympy.exp(sympy.sin(x)**7) * sympy.log(sympy.cos(x)), x)\nwhile True: pass",
}  # fmt: skip

QUICK = {**FILES, **PROC, **NETWORK, **PROCESSES, **KERNEL, **PYTHON, **MEMORY}
EVERY = {**QUICK, **SLOW}
