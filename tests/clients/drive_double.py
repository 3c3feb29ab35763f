"""Holds the double of Google Drive (tests/common/gdrive/) against Google's own Python client.

Run by tests/providers with the double's address, the credentials file and the refresh token's parts. What fails here is
something that the real client would not accept, or that the double does otherwise than the client was made for.
"""
import hashlib, io, json, os, random, sys

import googleapiclient
from google.oauth2 import credentials as user_credentials, service_account
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseDownload, MediaIoBaseUpload

endpoint, key_file = sys.argv[1:3]
FOLDER = "application/vnd.google-apps.folder"

# The discovery document that the client brings, at another address: media uploads follow its root URL, not api_endpoint.
path = os.path.join(os.path.dirname(googleapiclient.__file__), "discovery_cache", "documents", "drive.v3.json")
document = json.load(open(path))
document["rootUrl"] = endpoint + "/"
document["baseUrl"] = endpoint + "/drive/v3/"
credentials = service_account.Credentials.from_service_account_file(key_file, scopes=["https://www.googleapis.com/auth/drive"])
drive = build_from_document(document, credentials=credentials)
files = drive.files()

folder = files.create(body={"name": "it's", "mimeType": FOLDER, "parents": ["root"]}, fields="id,parents,mimeType").execute()
assert set(folder) == {"id", "parents", "mimeType"}, folder

# A resumable upload in chunks, with an id of generateIds, and its download in chunks.
data = random.Random(1).randbytes(1_000_001)
new = files.generateIds(count=2, space="drive").execute()["ids"][0]
media = MediaIoBaseUpload(io.BytesIO(data), "application/octet-stream", chunksize=256 * 1024, resumable=True)
request = files.create(body={"id": new, "name": "plate.exr", "parents": [folder["id"]], "modifiedTime": "2020-01-02T03:04:05.678Z"},
                       media_body=media, fields="id,size,md5Checksum,headRevisionId,modifiedTime,createdTime")
steps, response = 0, None
while response is None:
    status, response = request.next_chunk()
    steps += 1
assert steps == 4 and response["id"] == new, (steps, response)
assert response["size"] == str(len(data)) and response["md5Checksum"] == hashlib.md5(data).hexdigest(), response
assert response["modifiedTime"] == "2020-01-02T03:04:05.678Z", response
out = io.BytesIO()
download = MediaIoBaseDownload(out, files.get_media(fileId=new), chunksize=300_000)
done = False
while not done:
    _, done = download.next_chunk()
assert out.getvalue() == data

# A multipart upload, an update of the bytes, properties, moving, the bin.
small = files.create(body={"name": "small", "parents": ["root"]}, media_body=MediaIoBaseUpload(io.BytesIO(b"one"), "text/plain")).execute()
assert small["kind"] == "drive#file" and set(small) == {"kind", "id", "name", "mimeType"}, small
assert files.get_media(fileId=small["id"]).execute() == b"one"
before = files.get(fileId=small["id"], fields="headRevisionId").execute()
media = MediaIoBaseUpload(io.BytesIO(b"two!"), "text/plain", resumable=True)
after = files.update(fileId=small["id"], media_body=media, fields="headRevisionId,size").execute()
assert after["size"] == "4" and after["headRevisionId"] != before["headRevisionId"], (before, after)
root = files.get(fileId="root", fields="id").execute()["id"]
moved = files.update(fileId=small["id"], addParents=folder["id"], removeParents=root, fields="parents,properties",
                     body={"properties": {"a": "1"}}).execute()
assert moved == {"parents": [folder["id"]], "properties": {"a": "1"}}, moved

# Queries, pages, names with quotes.
def search(q, **more):
    found, request = [], files.list(q=q, pageSize=1, fields="nextPageToken,files(id,name)", **more)
    while request is not None:
        page = request.execute()
        found += [f["name"] for f in page["files"]]
        request = files.list_next(request, page)
    return sorted(found)

inside = f"'{folder['id']}' in parents and trashed = false"
assert search(inside) == ["plate.exr", "small"]
assert search(inside + " and (name = 'PLATE.EXR' or name = 'none')") == ["plate.exr"]
assert search(f"name = 'it\\'s' and mimeType = '{FOLDER}'") == ["it's"]
files.update(fileId=folder["id"], body={"trashed": True}).execute()
assert search(inside) == [], "what is in a folder in the bin is in the bin"
files.update(fileId=folder["id"], body={"trashed": False}).execute()

# Shared drives, quota, changes, and refusals.
assert [d["name"] for d in drive.drives().list().execute()["drives"]] == ["Studio"]
assert int(drive.about().get(fields="storageQuota").execute()["storageQuota"]["limit"]) > 0
start = drive.changes().getStartPageToken().execute()["startPageToken"]
files.delete(fileId=small["id"]).execute()
for call, status, reason in [
    (files.get(fileId=small["id"]), 404, "notFound"),
    (files.list(q="nonsense ("), 400, "invalid"),
    (files.create(body={"id": new, "name": "again"}), 409, "fileIdInUse"),
    (drive.about().get(), 400, "required"),
]:
    try:
        call.execute()
        raise AssertionError(f"not refused: {call.uri}")
    except HttpError as e:
        assert (e.resp.status, e.error_details[0]["reason"]) == (status, reason), e
assert "newStartPageToken" in drive.changes().list(pageToken=start).execute()

# A user with a refresh token; a wrong one is refused.
def as_user(refresh):
    given = user_credentials.Credentials(None, refresh_token=refresh, token_uri=endpoint + "/token", client_id="client-1",
                                         client_secret="GOCSPX-client-secret")
    return build_from_document(document, credentials=given).files().get(fileId=new, fields="name").execute()

assert as_user(sys.argv[3]) == {"name": "plate.exr"}
try:
    as_user("wrong")
    raise AssertionError("a wrong refresh token was taken")
except Exception as e:
    assert "invalid_grant" in str(e), e
print("ok")
