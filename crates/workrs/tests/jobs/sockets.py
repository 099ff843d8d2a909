"""Three processes that talk over TCP on the loopback interface and over a Unix socket, on connections that last."""
import os
import socket
import time

steps, pause = int(os.environ["STEPS"]), float(os.environ["PAUSE"])


def serve(listener, answer):
    """A child that answers line by line until its client leaves."""
    pid = os.fork()
    if pid != 0:
        listener.close()
        return pid
    connection, _ = listener.accept()
    stream = connection.makefile("rw", newline="\n")
    for line in stream:
        stream.write(answer(line.rstrip("\n")) + "\n")
        stream.flush()
    os._exit(0)


tcp = socket.create_server(("127.0.0.1", 0))
address = tcp.getsockname()
unix = socket.socket(socket.AF_UNIX)
unix.bind("/tmp/talk-%d" % os.getpid())
unix.listen()
unix_address = unix.getsockname()
servers = [serve(tcp, lambda text: str(int(text) * 3)), serve(unix, lambda text: text[::-1])]
clients = [socket.create_connection(address), socket.socket(socket.AF_UNIX)]
clients[1].connect(unix_address)
os.unlink(unix_address)
streams = [client.makefile("rw", newline="\n") for client in clients]


def ask(stream, text):
    stream.write(text + "\n")
    stream.flush()
    return stream.readline().rstrip("\n")


for n in range(1, steps + 1):
    times_three = ask(streams[0], str(n))
    time.sleep(pause / 2)
    print(n, times_three, ask(streams[1], f"{n}-{times_three}"), flush=True)
    time.sleep(pause / 2)
for stream, client in zip(streams, clients):
    stream.close()
    client.close()
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in servers]
print("servers ended with", codes, flush=True)
