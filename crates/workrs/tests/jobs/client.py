"""Sends the numbers from 1 on to a server outside, one after another; a number that is not answered is sent anew."""
import os
import socket
import time

address = ("127.0.0.1", int(os.environ["PORT"]))
steps = int(os.environ["STEPS"])


def connect():
    link = socket.create_connection(address)
    return link, link.makefile("rw", newline="\n")


link, stream = connect()
for step in range(1, steps + 1):
    while True:
        try:
            stream.write(f"{step}\n")
            stream.flush()
            answer = stream.readline()
        except OSError:
            answer = ""
        if answer:
            break
        link.close()
        link, stream = connect()
        print("connected anew", flush=True)
    assert answer == f"{step * step}\n", answer
    print(step, flush=True)
    time.sleep(0.1)
