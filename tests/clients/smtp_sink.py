"""A mail server for tests: aiosmtpd, which keeps each mail as a file in a folder. Listens on loopback alone.

usage: smtp_sink.py PORT FOLDER [--cert CERT KEY] [--user NAME PASSWORD] [--answer CODE] [--hang-up]
"""

import argparse
import asyncio
import json
import pathlib
import ssl

from aiosmtpd.smtp import SMTP, AuthResult

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--cert", nargs=2)
parser.add_argument("--user", nargs=2)
parser.add_argument("--answer", help="what every mail is answered with")
parser.add_argument("--hang-up", action="store_true", help="keep the mail, and close without an answer")
args = parser.parse_args()


class Keeper:
    async def handle_DATA(self, server, session, envelope):
        if args.answer:
            return args.answer
        number = len(list(args.folder.glob("*.json")))
        kept = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "user": session.auth_data.decode() if session.auth_data else None,
            "mail": envelope.content.decode("utf-8"),
        }
        # Whole under its name, or not there.
        part = args.folder / f"{number}.part"
        part.write_text(json.dumps(kept))
        part.rename(args.folder / f"{number}.json")
        if args.hang_up:
            server.transport.abort()
            await asyncio.sleep(3600)
        return "250 kept"


def authenticate(server, session, envelope, mechanism, data):
    name, password = args.user
    if (data.login.decode(), data.password.decode()) == (name, password):
        return AuthResult(success=True, auth_data=data.login)
    return AuthResult(success=False, handled=False)


def protocol():
    options = {}
    if args.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*args.cert)
        options = {"tls_context": context, "require_starttls": True}
    if args.user:
        options |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": bool(args.cert)}
    return SMTP(Keeper(), hostname="localhost", enable_SMTPUTF8=True, **options)


async def serve():
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", args.port)
    async with server:
        await server.serve_forever()


asyncio.run(serve())
