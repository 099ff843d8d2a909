"""Inserts rows in transactions, one database with a rollback journal and one with a write-ahead log."""
import os
import sqlite3
import time

steps, pause = int(os.environ["STEPS"]), float(os.environ["PAUSE"])
ROWS = 20
databases = []
for mode in ("delete", "wal"):
    database = sqlite3.connect(f"{mode}.db", isolation_level=None)
    assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    database.execute("create table rows (step integer, number integer, primary key (step, number))")
    databases.append(database)
for n in range(1, steps + 1):
    for database in databases:
        database.execute("begin immediate")
        for number in range(ROWS):
            database.execute("insert into rows values (?, ?)", (n, number))
            time.sleep(pause / ROWS / 2)
        database.execute("commit")
    print(n, flush=True)
wanted = [(n, number) for n in range(1, steps + 1) for number in range(ROWS)]
for database in databases:
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert database.execute("select step, number from rows order by step, number").fetchall() == wanted
    database.close()
print("every row is there once", flush=True)
