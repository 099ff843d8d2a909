# Does at once what is hard to capture, in rounds, and checks all of it in every round and at the end.
import fcntl, hashlib, mmap, os, socket, sqlite3, subprocess, sys, tempfile, threading, time

ROUNDS = 60

# Threads.
counters = [0, 0]
def spin(index):
    while True:
        counters[index] += 1
        time.sleep(0.001)
for index in range(len(counters)):
    threading.Thread(target=spin, args=(index,), daemon=True).start()

# A child that answers over pipes.
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

# An echo server over TCP and over a Unix socket, with connections that stay.
def serve(listener):
    connection = listener.accept()[0]
    while data := connection.recv(4096):
        connection.sendall(data)
def connect(listener, kind):
    listener.listen()
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    client = socket.socket(kind)
    client.connect(listener.getsockname())
    return client
tcp = socket.socket(socket.AF_INET)
tcp.bind(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind("/tmp/socket")
clients = [connect(tcp, socket.AF_INET), connect(unix, socket.AF_UNIX)]

# A transaction that stays open.
database = sqlite3.connect("/job/data.sqlite", isolation_level=None)
database.execute("create table t (i integer primary key, text)")
database.execute("begin immediate")

# 20 MB in a deleted file, and a locked file.
big = tempfile.TemporaryFile(dir="/tmp")
content = os.urandom(1 << 20) * 20
big.write(content)
big.flush()
digest = hashlib.sha256(content).digest()
del content
locked = open("/job/locked", "w")
fcntl.flock(locked, fcntl.LOCK_EX)
shared_file = open("/dev/shm/shared", "w+b")
shared_file.truncate(4096)
shared = mmap.mmap(shared_file.fileno(), 4096)

last = time.monotonic()
for round in range(1, ROUNDS + 1):
    message = b"%d\n" % round
    child.stdin.write(message)
    child.stdin.flush()
    assert child.stdout.readline() == message
    for client in clients:
        client.sendall(message)
        assert client.recv(4096) == message
    database.execute("insert into t values (?, ?)", (round, "x" * 1000))
    shared[0:4] = round.to_bytes(4, "little")
    before = list(counters)
    time.sleep(0.02)
    patience = time.monotonic() + 10
    while not all(now > then for now, then in zip(counters, before)):
        assert time.monotonic() < patience, "a thread stands still"
        time.sleep(0.001)
    assert time.monotonic() > last
    last = time.monotonic()
    print(round, flush=True)

database.execute("commit")
assert database.execute("select count(*), sum(i) from t").fetchone() == (ROUNDS, ROUNDS * (ROUNDS + 1) // 2)
assert database.execute("pragma integrity_check").fetchone() == ("ok",)
big.seek(0)
assert hashlib.sha256(big.read()).digest() == digest
assert os.fstat(locked.fileno()).st_ino == os.stat("/job/locked").st_ino
taken = subprocess.run(["flock", "--nonblock", "/job/locked", "true"]).returncode
assert taken != 0, "the lock was lost"
assert open("/dev/shm/shared", "rb").read(4) == ROUNDS.to_bytes(4, "little")
# A restore runs at a high priority, what it restores does not.
stats = [open(f"/proc/{pid}/task/{task}/stat").read() for pid in (os.getpid(), child.pid) for task in os.listdir(f"/proc/{pid}/task")]
assert {stat.rpartition(") ")[2].split()[16] for stat in stats} == {"0"}, stats
print("all well")
