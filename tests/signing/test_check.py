"""What is refused: images without signatures, with those of others, of other images, of other files; changed bits."""

from __future__ import annotations

import datetime
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstack.carried_image.file_index import FileIndex
from llmstack.carried_image.image import open_image
from llmstack.errors import IntegrityError, LlmstackError, UsageError
from llmstack.inspection import verify
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.spec import RawManifest, canonical_json
from llmstack.oci.store import BlobStore
from llmstack.reporting import make_reporter
from llmstack.signing.attachments import EMPTY, Attachment, attach, attached_bundles
from llmstack.signing.bundle import Bundle
from llmstack.signing.check import check_image, compare, statement_of
from llmstack.signing.sign import sign_image
from llmstack.signing.signer import Signer
from llmstack.signing.statement import IMAGE_PREDICATE, MODEL_PREDICATE
from llmstack.signing.trust import load_trust
from tests.support.carried import carry, put_image
from tests.support.signing import Authority, new_key, sign_tag, trust_in

FILES = {"config.json": b"{}", "model.safetensors": bytes(100_000), ".gitattributes": b"*.bin"}
SIGNER = Signer(new_key())


@pytest.fixture
def layout(tmp_path):
    store = Layout(tmp_path / "models")
    carry(store, "org--model", FILES)
    return store


@pytest.fixture
def trust(tmp_path):
    return trust_in(tmp_path, SIGNER.key)


def check(store, trust, tag="org--model"):
    return check_image(open_image(store, tag), trust)


def reattach(store: BlobStore, source: Digest, target: RawManifest) -> None:
    """Attach the bundles of one image to another."""
    for bundle in list(attached_bundles(store, source)):
        attach(store, target, Attachment("copied", bundle))


def test_both_signatures_are_needed(layout, trust):
    image = open_image(layout, "org--model")
    with pytest.raises(IntegrityError, match="its digest: not signed"):
        check(layout, trust)
    model = SIGNER.sign_model(statement_of(image.index)).to_bytes()
    attach(layout, image.raw_manifest, Attachment(MODEL_PREDICATE, model))
    with pytest.raises(IntegrityError, match="its digest: not signed"):
        check(layout, trust)
    sign_image(image, layout, SIGNER)
    assert check(layout, trust).model_bundle == model


def test_signatures_are_reproducible(layout, tmp_path):
    image = sign_tag(layout, "org--model", SIGNER)
    first = [each.digest for each in layout.referrers(image.digest)]
    sign_image(image, layout, SIGNER)
    other = Layout(tmp_path / "other")
    carry(other, "org--model", FILES)
    sign_tag(other, "org--model", SIGNER)
    assert sorted(first) == sorted(each.digest for each in layout.referrers(image.digest))
    assert sorted(first) == sorted(each.digest for each in other.referrers(image.digest))
    assert len(first) == 2


def test_a_signature_of_another_key_does_not_count(layout, trust):
    sign_tag(layout, "org--model", Signer(new_key()))
    with pytest.raises(IntegrityError, match="not of a trusted signer"):
        check(layout, trust)
    # A hint is no proof: here it names the trusted key.
    image = open_image(layout, "org--model")
    forged = Signer(new_key()).sign_image(image.digest)
    hint = SIGNER.key.public.der_fingerprint
    attach(layout, image.raw_manifest, Attachment(IMAGE_PREDICATE, replace(forged, hint=hint).to_bytes()))
    with pytest.raises(IntegrityError, match="not of a trusted signer"):
        check(layout, trust)
    sign_image(image, layout, SIGNER)
    assert check(layout, trust).signed_by == (trust.path.name,)


def test_signatures_of_other_images_are_refused(layout, trust):
    """Swapped: bundles of another repo. Replayed: those of an earlier commit. Both are valid signatures."""
    signed = sign_tag(layout, "org--model", SIGNER)
    for tag, repo_id, commit in [("org--other", "org/other", "0" * 40), ("org--model", "org/model", "1" * 40)]:
        carry(layout, tag, FILES, repo_id=repo_id, commit=commit)
        changed = open_image(layout, tag)
        reattach(layout, signed.digest, changed.raw_manifest)
        with pytest.raises(IntegrityError, match="its digest: no valid signature: it is of another image"):
            check(layout, trust, tag)


def test_a_signed_image_under_the_tag_of_another_repo_is_refused(layout, trust):
    signed = sign_tag(layout, "org--model", SIGNER)
    layout.put_manifest(signed.raw_manifest, "org--other")
    with pytest.raises(IntegrityError, match="is not that of the model org/model@main"):
        check_image(replace(open_image(layout, "org--other"), confirmed=False), trust)


def test_a_model_signature_of_other_files_is_refused(layout, trust):
    """The image is signed as a whole, but its list of files is that of another model."""
    image = open_image(layout, "org--model")
    statement = statement_of(image.index)
    attach(layout, image.raw_manifest, Attachment(IMAGE_PREDICATE, SIGNER.sign_image(image.digest).to_bytes()))
    files = dict(statement.files)
    cases = [
        ({**files, "config.json": "0" * 64}, "has another sha256 than was signed"),
        ({**files, "more.bin": "0" * 64}, "was signed, but the image does not have it"),
        ({"config.json": files["config.json"]}, "'model.safetensors' is not signed"),
    ]
    for changed, expected in cases:
        bundle = SIGNER.sign_model(replace(statement, files=changed)).to_bytes()
        attach(layout, image.raw_manifest, Attachment(MODEL_PREDICATE, bundle))
        with pytest.raises(IntegrityError, match=r"its files: no valid signature"):
            check(layout, trust)
        with pytest.raises(IntegrityError, match=expected):
            compare(replace(statement, files=changed), image.index)


@pytest.mark.parametrize("statement", [b"{}", b"[]", b"\xff", b'{"_type":"https://in-toto.io/Statement/v1"}'])
def test_a_signed_statement_of_another_kind_is_no_signature(layout, trust, statement):
    image = open_image(layout, "org--model")
    bundle = SIGNER._bundle(statement, "")
    attach(layout, image.raw_manifest, Attachment(IMAGE_PREDICATE, bundle.to_bytes()))
    with pytest.raises(IntegrityError, match="its digest: no"):
        check(layout, trust)


def test_bundles_that_are_none_are_no_signatures(layout, trust):
    image = open_image(layout, "org--model")
    good = json.loads(SIGNER.sign_image(image.digest).to_bytes())
    envelope = good["dsseEnvelope"]
    wrong = [
        {},
        {**good, "mediaType": "application/json"},
        {**good, "dsseEnvelope": {**envelope, "signatures": []}},
        {**good, "dsseEnvelope": {**envelope, "signatures": envelope["signatures"] * 2}},
        {**good, "dsseEnvelope": {**envelope, "payloadType": "text/plain"}},
        {**good, "dsseEnvelope": {**envelope, "payload": "?"}},
        {**good, "verificationMaterial": []},
    ]
    for value in wrong:
        with pytest.raises(IntegrityError, match="signature bundle"):
            Bundle.parse(canonical_json(value))
        attach(layout, image.raw_manifest, Attachment(IMAGE_PREDICATE, canonical_json(value)))
    with pytest.raises(IntegrityError, match="its digest: no valid signature"):
        check(layout, trust)


def test_signers_count_for_their_repos_only(layout, tmp_path):
    sign_tag(layout, "org--model", SIGNER)
    (tmp_path / "a.pub").write_bytes(SIGNER.key.public.pem)
    file = tmp_path / "trust.yaml"
    file.write_text('signers: [{repos: ["acme/*"], key: a.pub}]')
    with pytest.raises(IntegrityError, match="has no signer for org/model"):
        check(layout, load_trust(file))
    file.write_text('signers: [{repos: ["acme/*", "org/*"], key: a.pub, name: The team}]')
    assert check(layout, load_trust(file)).signed_by == ("The team",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping with a list of signers"),
        ("signers: []", "must be a mapping with a list of signers"),
        ("signers: [a]", "must be a mapping"),
        ("signers: [{repos: [a], kee: b}]", "'kee' is unknown"),
        ("signers: [{key: a.pub}]", "repos must be a list"),
        ("signers: [{repos: ['*']}]", "either a key or a ca"),
        ("signers: [{repos: ['*'], key: a.pub, ca: b}]", "either a key or a ca"),
        ("signers: [{repos: ['*'], ca: a.pub}]", "ca must be certificates"),
        ("signers: [{repos: ['*'], key: '-----BEGIN PUBLIC KEY-----'}]", "is not a PEM public key"),
        ("signers: [", r"trust.yaml:1: invalid YAML"),
    ],
)
def test_errors_in_a_trust_file_name_the_place(tmp_path, text, expected):
    (tmp_path / "a.pub").write_bytes(SIGNER.key.public.pem)
    (tmp_path / "trust.yaml").write_text(text)
    with pytest.raises(UsageError, match=expected) as caught:
        load_trust(tmp_path / "trust.yaml")
    assert "trust.yaml" in caught.value.message


class TestCertificates:
    """Chains of certificates. The clock is not asked: all certificates here have expired, or are not valid yet."""

    @pytest.fixture
    def authority(self, tmp_path):
        root = Authority.root()
        (tmp_path / "ca.pem").write_bytes(root.pem)
        return root

    def signed_by(self, layout, *certificates):
        return sign_tag(
            layout, "org--model", Signer(SIGNER.key, tuple(each.public_bytes(Encoding.DER) for each in certificates))
        )

    @pytest.mark.parametrize("year", [2020, 2035])
    def test_validity_is_judged_at_the_start_of_the_signers_certificate(self, layout, authority, tmp_path, year):
        issuer = authority.subordinate()
        leaf = issuer.issue(SIGNER.key, start=datetime.datetime(year, 1, 1, tzinfo=datetime.UTC))
        self.signed_by(layout, leaf, issuer.certificate)
        found = check(layout, load_trust(tmp_path / "ca.pem"))
        assert found.signed_by == ("CN=Release team (ca.pem)",)

    def test_a_certificate_that_begins_after_its_authority_ended_is_refused(self, layout, authority, tmp_path):
        self.signed_by(layout, authority.issue(SIGNER.key, start=datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)))
        with pytest.raises(IntegrityError, match="not of a trusted authority"):
            check(layout, load_trust(tmp_path / "ca.pem"))

    def test_chains_of_others_are_refused(self, layout, authority, tmp_path):
        trust = load_trust(tmp_path / "ca.pem")
        stranger = Authority.root()
        web = authority.issue(SIGNER.key, usage=ExtendedKeyUsageOID.SERVER_AUTH)
        no_authority = authority.subordinate(ca=False)
        cut = authority.subordinate()
        chains = {
            "another authority": [stranger.issue(SIGNER.key), stranger.certificate],
            "a web server": [web],
            "the issuer may not issue": [no_authority.issue(SIGNER.key), no_authority.certificate],
            "no intermediate": [cut.issue(SIGNER.key)],
            "the certificate of another key": [authority.issue(new_key())],
        }
        for what, chain in chains.items():
            self.signed_by(layout, *chain)
            with pytest.raises(IntegrityError, match="its digest: no valid signature"):
                pytest.fail(f"{what}: {check(layout, trust)}")

    @pytest.mark.usefixtures("authority")
    def test_a_key_is_not_its_certificate(self, layout, trust, tmp_path):
        """A signature with a certificate is one of its key, and a signature without one is none of the authority."""
        sign_tag(layout, "org--model", SIGNER)
        with pytest.raises(IntegrityError, match="not of a trusted signer"):
            check(layout, load_trust(tmp_path / "ca.pem"))
        assert check(layout, trust)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signed")
    store = Layout(folder / "models")
    index = carry(store, "org--model", FILES)
    sign_tag(store, "org--model", SIGNER)
    return folder, index


def verified(folder: Path) -> bool:
    with closing(Client()) as client:
        image = open_image(Layout(folder / "models"), "org--model")
        trust = load_trust(folder / "trust.pub")
        return verify(image, make_reporter("none"), client.cancel, 1, trust).ok


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_changed_bit_is_refused(signed, data):
    """Any bit of any blob: indexes, manifests, configs, layers, bundles, and the manifests that attach them."""
    folder, _ = signed
    (folder / "trust.pub").write_bytes(SIGNER.key.public.pem)
    # The empty config of the attachments says nothing, and is not read.
    empty = Digest.of(EMPTY).hex
    blobs = sorted(path for path in (folder / "models/blobs/sha256").iterdir() if path.name != empty)
    blob = data.draw(st.sampled_from(blobs))
    content = blob.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    blob.write_bytes(changed)
    try:
        assert not verified(folder)
    except LlmstackError:
        pass
    finally:
        blob.write_bytes(content)
    assert verified(folder)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_change_of_a_name_or_a_hash_is_refused_with_all_digests_made_to_fit(signed, data):
    """The attacker rewrites the file index, makes a consistent image of it, and attaches the signatures to that."""
    folder, index = signed
    (folder / "trust.pub").write_bytes(SIGNER.key.public.pem)
    store = Layout(folder / "models")
    original = open_image(store, "org--model")
    number = data.draw(st.integers(0, len(index.files) - 1))
    file = index.files[number]
    where = data.draw(st.sampled_from(["sha256", "path", "repo_id", "commit"]))
    other = {"sha256": "5" * 64, "path": f"{file.path}x", "repo_id": "org/models", "commit": "4" * 40}[where]
    if where in {"sha256", "path"}:
        changed = {where: other, **({"oid": other} if where == "sha256" and len(file.oid) == 64 else {})}
        files = tuple(replace(each, **changed) if each is file else each for each in index.files)
        forged: FileIndex = replace(index, files=tuple(sorted(files, key=lambda each: each.path.encode())))
    else:
        forged = replace(index, **{where: other})
    digest = put_image(store, "forged", forged, list(original.layers[:-1]))
    reattach(store, original.digest, store.manifest(digest))
    with pytest.raises(IntegrityError):
        check_image(open_image(store, "forged"), load_trust(folder / "trust.pub"))


def test_too_many_referrers_are_refused(layout, trust, monkeypatch):
    monkeypatch.setattr("llmstack.signing.attachments.MAX_ATTACHED", 1)
    sign_tag(layout, "org--model", SIGNER)
    with pytest.raises(IntegrityError, match="2 referrers, the limit is 1"):
        check(layout, trust)


def test_an_image_without_a_file_index_needs_a_signature_of_its_digest(layout, tmp_path):
    image = replace(open_image(layout, "org--model"), index=None)
    sign_image(image, layout, SIGNER)
    (tmp_path / "a.pub").write_bytes(SIGNER.key.public.pem)
    (tmp_path / "trust.yaml").write_text(f'signers: [{{repos: ["{layout.name}"], key: a.pub}}]')
    trust = load_trust(tmp_path / "trust.yaml")
    assert check_image(image, trust).model_bundle is None
    with pytest.raises(IntegrityError, match="has no signer for org/model"):
        check(layout, trust)
