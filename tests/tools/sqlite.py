"""A database under load: `load FILE TRANSACTIONS` fills it by several processes, `check FILE` says whether it is sound."""

import hashlib
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time

WRITERS = 4
READERS = 2
ACCOUNTS = 50
TOTAL = ACCOUNTS * 1000


def connect(path):
    db = sqlite3.connect(path, timeout=120, isolation_level=None)
    mode = db.execute("PRAGMA journal_mode").fetchone()[0]
    assert mode == "wal", mode
    return db


def sound(db):
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("SELECT sum(amount) FROM account").fetchone() == (TOTAL,)


def write(path, writer, transactions):
    """Each transaction moves an amount and writes down what it did: both are there or none is."""
    rnd = random.Random(writer)
    db = connect(path)
    db.execute("PRAGMA synchronous = " + ("FULL" if writer % 2 else "NORMAL"))
    db.execute("PRAGMA wal_autocheckpoint = 100")
    for n in range(transactions):
        db.execute("BEGIN IMMEDIATE")
        a, b, amount = rnd.randrange(ACCOUNTS), rnd.randrange(ACCOUNTS), rnd.randrange(100)
        db.execute("UPDATE account SET amount = amount - ? WHERE id = ?", (amount, a))
        db.execute("UPDATE account SET amount = amount + ? WHERE id = ?", (amount, b))
        blob = rnd.randbytes(rnd.randrange(12000))
        digest = hashlib.sha256(blob).hexdigest()
        db.execute("INSERT INTO note VALUES (?, ?, ?, ?)", (writer, n, blob, digest))
        if n % 10 == 9:
            db.execute("ROLLBACK")
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO note VALUES (?, ?, x'', ?)", (writer, n, hashlib.sha256(b"").hexdigest()))
        db.execute("COMMIT")
    db.close()


def read(path, stop):
    db = connect(path)
    while not stop.is_set():
        db.execute("BEGIN")
        assert db.execute("SELECT sum(amount) FROM account").fetchone() == (TOTAL,)
        for writer, count, last in db.execute("SELECT writer, count(*), max(n) FROM note GROUP BY writer"):
            assert count == last + 1, (writer, count, last)
        db.execute("COMMIT")
    db.close()


def load(path, transactions):
    db = sqlite3.connect(path, isolation_level=None)
    assert db.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL)")
    db.execute("CREATE TABLE note (writer INTEGER, n INTEGER, blob BLOB, digest TEXT, PRIMARY KEY (writer, n))")
    db.executemany("INSERT INTO account VALUES (?, 1000)", [(i,) for i in range(ACCOUNTS)])
    db.close()
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    writers = [spawn.Process(target=write, args=(path, i, transactions)) for i in range(WRITERS)]
    readers = [spawn.Process(target=read, args=(path, stop)) for _ in range(READERS)]
    victim = spawn.Process(target=write, args=(path, WRITERS, 10**9))
    for process in writers + readers + [victim]:
        process.start()
    # Killed in the middle of what it does, once it has done something.
    watch = connect(path)
    until = time.monotonic() + 60
    while watch.execute("SELECT count(*) FROM note WHERE writer = ?", (WRITERS,)).fetchone()[0] < 5:
        assert time.monotonic() < until, "the victim wrote nothing"
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(60)
    print("killed:", int(victim.exitcode == -signal.SIGKILL))
    for process in writers:
        process.join(240)
        assert process.exitcode == 0, process
    stop.set()
    for process in readers:
        process.join(60)
        assert process.exitcode == 0, process
    sound(watch)
    assert watch.execute("SELECT count(*) FROM note WHERE writer < ?", (WRITERS,)).fetchone()[0] == WRITERS * transactions
    assert watch.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    watch.execute("DELETE FROM note WHERE n % 3 = 1")
    watch.execute("VACUUM")
    sound(watch)
    # Now one file, which is to be at the remote as it is here.
    assert watch.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    print(watch.execute("SELECT count(*) FROM note").fetchone()[0])
    watch.close()
    assert not [name for name in os.listdir(os.path.dirname(path)) if name.endswith(("-wal", "-shm", "-journal"))]


def check(path):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    sound(db)
    count = 0
    for blob, digest in db.execute("SELECT blob, digest FROM note"):
        assert hashlib.sha256(blob).hexdigest() == digest
        count += 1
    print(count)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(sys.argv[2], int(sys.argv[3]))
    else:
        check(sys.argv[2])
