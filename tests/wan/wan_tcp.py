"""Plain TCP for tests of wanem: `serve` counts what arrives, `send HOST CONNECTIONS BYTES TEXT` sends repeated TEXT."""
import socket
import sys
import threading

PORT = 5001


def receive(connection, number):
    total = 0
    while True:
        data = connection.recv(1 << 16)
        if not data:
            break
        total += len(data)
    print(f"connection {number} done: {total} bytes", flush=True)


def serve():
    listener = socket.create_server(("0.0.0.0", PORT))
    print("listening", flush=True)
    number = 0
    while True:
        connection, _ = listener.accept()
        number += 1
        threading.Thread(target=receive, args=(connection, number), daemon=True).start()


def send(connection, data):
    connection.sendall(data)
    connection.close()


def main():
    if sys.argv[1] == "serve":
        serve()
    host, connections, size, text = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5].encode()
    data = (text * (size // len(text) + 1))[:size]
    threads = []
    for _ in range(connections):
        connection = socket.create_connection((host, PORT))
        threads.append(threading.Thread(target=send, args=(connection, data)))
        threads[-1].start()
    for thread in threads:
        thread.join()


main()
