"""croissant.json: the dataset in Croissant 1.1 (https://docs.mlcommons.org/croissant/), with its responsible AI fields.

The files are those of the Hub repository, by glob. Each config has a record set; those of views have the rows of
`labeled`. The column that a view is named after says which split a row is in: Croissant can take pieces out of a file's
path, but not make split names of them. mlcroissant reads a local copy of the repository by

    mlcroissant.Dataset("croissant.json", mapping={"repository": folder}).records("segmented")
"""

import json
from pathlib import Path

from hyper_kvasir import CITATION, HOMEPAGE
from scripts.pipeline.configs import VIEWS
from scripts.pipeline.parquet import features_metadata

CONTEXT = Path(__file__).parents[2] / "dataset_card" / "croissant_context.json"  # as mlcroissant 1.1 writes it
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
        "name": metadata["pretty_name"],
        "description": rai["description"],
        "url": url,
        "sameAs": [HOMEPAGE, metadata["paper"]],
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "version": version,
        "datePublished": metadata["paper_published"],
        "creator": {"@type": "sc:Organization", "name": "Simula Research Laboratory", "url": HOMEPAGE},
        "keywords": metadata["tags"],
        "citeAs": CITATION,
        "isLiveDataset": False,
        **{f"rai:{name}": text for name, text in rai["rai"].items()},
        "distribution": [_repository(url), *map(_file_set, parts)],
        "recordSet": [_classes(name, names) for name, names in _class_names(parts)]
        + [_record_set(config, metadata) for config in configs],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


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


def _file_set(part):
    return {
        "@type": "cr:FileSet",
        "@id": f"files-{part}",
        "name": f"files-{part}",
        "description": f"Parquet files of the part {part}; sha256 and size of each are in manifest.json.",
        "containedIn": {"@id": "repository"},
        "encodingFormat": "application/x-parquet",
        "includes": f"data/{part}/*.parquet",  # here * matches folders too
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
    identity = f"classes-{column}"
    fields = (("number", "sc:Integer"), ("name", "sc:Text"))
    return {
        "@type": "cr:RecordSet",
        "@id": identity,
        "name": identity,
        "description": f"The classes of the column {column}.",
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{identity}/number"},
        "field": [
            {"@type": "cr:Field", "@id": f"{identity}/{name}", "name": name, "dataType": kind} for name, kind in fields
        ],
        "data": [{f"{identity}/number": i, f"{identity}/name": name} for i, name in enumerate(names)],
    }


def _record_set(config, metadata):
    part = VIEWS[config].part
    meanings = metadata["columns"] | metadata.get(f"{part}_columns", {})
    fields = [_field(config, name, feature, meanings) for name, feature in features_metadata(part).items()]
    return {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "description": _description(config),
        "key": {"@id": f"{config}/image_id"},
        "field": fields,
    }


def _description(config):
    column = VIEWS[config].column
    return VIEWS[config].description + (f" The column `{column}` gives the split." if column else "")


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
        "source": {"fileSet": {"@id": f"files-{VIEWS[config].part}"}, "extract": {"column": column}},
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
