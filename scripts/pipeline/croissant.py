"""croissant.json: the dataset in Croissant 1.1 (https://docs.mlcommons.org/croissant/), with its responsible AI fields.

The files are those of the Hub repository, by glob. Each config has a record set; those of views have the rows of their
part, with a field `split`. That is the piece of a file's path by which the view selects it, since Croissant can take
out pieces but not change them; the record set `<config>-splits` has the name of each split beside it. mlcroissant reads
a local copy of the repository by

    mlcroissant.Dataset("croissant.json", mapping={"repository": folder}).records("segmented")
"""

import json
import re
from pathlib import Path

import yaml

from hyper_kvasir import CITATION, HOMEPAGE
from scripts.pipeline.configs import METADATA, VIEWS
from scripts.pipeline.parquet import features_metadata

TEXTS = Path(__file__).parents[2] / "dataset_card"
CONTEXT = TEXTS / "croissant_context.json"  # as mlcroissant 1.1 writes it
CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
TYPES = {
    **{"string": "sc:Text", "bool": "sc:Boolean", "float32": "cr:Float32"},
    **{"int8": "cr:Int8", "int32": "cr:Int32", "int64": "cr:Int64"},
}


def croissant_text(manifest: dict, metadata: dict, rai: dict, *, repo_id: str, version: str) -> str:
    """The JSON of a manifest; `metadata` and `rai` are those of `dataset_card/`."""
    url = f"https://huggingface.co/datasets/{repo_id}"
    configs = list(manifest["configs"])
    parts = list(dict.fromkeys(VIEWS[config].part for config in configs))
    document = {
        "@context": json.loads(CONTEXT.read_text(encoding="utf-8")),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": pretty_name(metadata, manifest),
        "description": rai["description"],
        "url": url,
        "sameAs": [HOMEPAGE, metadata["paper"]],
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "version": version,
        "datePublished": metadata["paper_published"],
        "creator": _creators(),
        "publisher": {"@type": "sc:Organization", "name": "Simula Research Laboratory", "url": HOMEPAGE},
        "keywords": metadata["tags"],
        "citeAs": CITATION,
        "isLiveDataset": False,
        **{f"rai:{name}": text for name, text in rai["rai"].items()},
        "distribution": [_repository(url), *map(_file_set, configs)],
        "recordSet": [
            *(_classes(name, names) for name, names in _class_names(parts)),
            *(_splits(config) for config in configs if VIEWS[config].column),
            *(_record_set(config, metadata, "max_side" in manifest) for config in configs),
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def pretty_name(metadata: dict, manifest: dict) -> str:
    """The name of the dataset, and of its edition."""
    edition = f", small edition ({manifest['max_side']} pixels)" if "max_side" in manifest else ""
    return metadata["pretty_name"] + edition


def _creators():
    """The authors that CITATION.cff names."""
    authors = yaml.safe_load((TEXTS / "CITATION.cff").read_text(encoding="utf-8"))["authors"]
    return [{"@type": "sc:Person", "name": f"{author['given-names']} {author['family-names']}"} for author in authors]


def _repository(url):
    return {
        "@type": "cr:FileObject",
        "@id": "repository",
        "name": "repository",
        "description": "The Hub repository.",
        "contentUrl": url,
        "encodingFormat": "git+https",
        # A repository has no checksum, and Croissant asks for one.
        "sha256": "https://github.com/mlcommons/croissant/issues/80",
    }


def _file_set(config):
    """The files of a config, and of no other: mlcroissant takes a piece out of the paths of a set once."""
    part = VIEWS[config].part
    return {
        "@type": "cr:FileSet",
        "@id": f"files-{config}",
        "name": f"files-{config}",
        "description": f"Parquet files of {config}, in data/{part}; sha256 and size of each are in manifest.json.",
        "containedIn": {"@id": "repository"},
        "encodingFormat": "application/x-parquet",
        "includes": list(VIEWS[config].splits.values()),  # an incomplete build may have files of no split
    }


def _class_names(parts):
    """(column, names) of the class labels of some parts; those in a struct as struct.column."""
    names = {}
    for part in parts:
        for column, feature in features_metadata(part).items():
            inner = {f"{column}.{key}": value for key, value in _struct(feature).items()}
            for name, labels in {column: feature, **inner}.items():
                if labels["_type"] == "ClassLabel":
                    names[name] = labels["names"]
    return names.items()


def _classes(column, names):
    """The names of a class label, by their numbers."""
    fields = {"number": "sc:Integer", "name": "sc:Text"}
    described = f"The classes of the column {column}."
    return _table(f"classes-{column}", described, "sc:Enumeration", fields, list(enumerate(names)))


def _splits(config):
    """The names of the splits of a view, by the pieces of the paths of their files."""
    fields, view = {"path": "sc:Text", "name": "sc:Text"}, VIEWS[config]
    described = f"The splits of {config}, and the piece of a file's path that says which of them it is in."
    return _table(f"{config}-splits", described, "cr:Split", fields, list(zip(map(str, view.values), view.splits)))


def _table(identity, description, kind, fields, rows):
    """A record set that has its data in itself; the first of `fields` ({name: type}) is its key."""
    return {
        "@type": "cr:RecordSet",
        "@id": identity,
        "name": identity,
        "description": description,
        "dataType": kind,
        "key": {"@id": f"{identity}/{next(iter(fields))}"},
        "field": [
            {"@type": "cr:Field", "@id": f"{identity}/{name}", "name": name, "dataType": data_type}
            for name, data_type in fields.items()
        ],
        "data": [{f"{identity}/{name}": value for name, value in zip(fields, row)} for row in rows],
    }


def meanings_of(part: str, metadata: dict, small: bool) -> dict[str, str]:
    """{column: what it means} in a part; `small`: in the small edition."""
    of_part = metadata.get(f"{part}_columns", {})
    return metadata["columns"] | of_part | (metadata["small_columns"] if small and part != METADATA else {})


def _record_set(config, metadata, small):
    part = VIEWS[config].part
    meanings = meanings_of(part, metadata, small)
    fields = [_split_field(config)] if VIEWS[config].column else []
    fields += [_field(config, name, feature, meanings) for name, feature in features_metadata(part, small).items()]
    return {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "description": _description(config),
        "key": {"@id": f"{config}/image_id"},
        "field": fields,
    }


def _description(config):
    view = VIEWS[config]
    what = f"The field split gives the split, see {config}-splits." if view.column else "It has one split, train."
    return f"{view.description} {what}"


def _split_field(config):
    """The piece of a file's path that says which split of a view it is in."""
    view = VIEWS[config]
    piece = "|".join(map(re.escape, map(str, view.values)))
    before, after = (re.escape(text).replace(r"\*", "[^/]*") for text in view.files.split("{}"))
    # Of any path that ends so, and of the piece alone: mlcroissant 1.1 takes it out twice, and warns without one.
    regex = f"^(?:.*{before})?({piece})(?:{after})?$"
    return {
        "@type": "cr:Field",
        "@id": f"{config}/split",
        "name": "split",
        "description": f"The split, as a piece of the file's path; {config}-splits has its name.",
        "dataType": "sc:Text",
        "source": {
            "fileSet": {"@id": f"files-{config}"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": regex},
        },
        "references": {"field": {"@id": f"{config}-splits/path"}},
    }


def _field(config, column, feature, meanings):
    identity = f"{config}/{column}"
    if _struct(feature):
        fields = [
            {**_source_field(config, column, inner, meanings, key), "isArray": True, "arrayShape": _shape(inner)}
            for key, inner in _struct(feature).items()
        ]
        text = f"{meanings[column]} One list for each property."
        return {"@type": "cr:Field", "@id": identity, "name": column, "description": text, "subField": fields}
    if feature["_type"] == "Sequence":
        listed = _source_field(config, column, feature["feature"], meanings)
        return {**listed, "isArray": True, "arrayShape": "-1"}
    return _source_field(config, column, feature, meanings)


def _struct(feature):
    """The features in a struct of lists, by name; none of another feature."""
    inner = feature["feature"] if feature["_type"] == "Sequence" else {}
    return {} if "_type" in inner else inner


def _shape(feature):
    """The shape of a list of values of a feature."""
    return f"-1,{feature['length']}" if feature["_type"] == "Sequence" else "-1"


def _source_field(config, column, feature, meanings, key=None):
    """A field out of a column, or with `key` out of the struct in it."""
    name = f"{column}.{key}" if key else column
    field = {
        "@type": "cr:Field",
        "@id": f"{config}/{name.replace('.', '/')}",
        "name": key or column,
        "description": meanings[name],
        "dataType": _data_type(feature),
        "source": {"fileSet": {"@id": f"files-{config}"}, "extract": {"column": column}},
    }
    if feature["_type"] == "ClassLabel":
        field["references"] = {"field": {"@id": f"classes-{name}/number"}}
    if key or feature["_type"] == "Image":
        field["source"]["transform"] = {"jsonPath": key or "bytes"}
    return field


def _data_type(feature):
    if feature["_type"] == "Sequence":
        return _data_type(feature["feature"])
    return {"Image": "sc:ImageObject", "ClassLabel": "cr:Int64"}.get(feature["_type"]) or TYPES[feature["dtype"]]
