"""The ways people go today from the labeled zip to files to publish, each as its own documentation advises.

    python -m scripts.bench.rivals imagefolder ZIP OUT      # unzip, `imagefolder`, the files that push_to_hub uploads
    python -m scripts.bench.rivals generator ZIP OUT        # a GeneratorBasedBuilder over the zip, into Parquet files
    python -m scripts.bench.rivals webdataset ZIP OUT       # tars by webdataset.ShardWriter
    python -m scripts.bench.rivals decode ZIP OUT           # decodes every image, and writes nothing

`scripts.bench build` and `small` measure them. They write image and label alone, check no digest and sync nothing. Each
loads what it needs itself, since its time counts from its start.
"""

import io
import multiprocessing
import os
import subprocess
import sys
import zipfile


def imagefolder(archive: str, out: str) -> None:
    """Unzips, loads the folder, and writes the files that `push_to_hub` of datasets 5.2 uploads, by the same calls."""
    from datasets import config, load_dataset
    from datasets.arrow_writer import get_writer_batch_size_from_data_size
    from datasets.table import embed_table_storage
    from datasets.utils.py_utils import convert_file_size_to_int

    extracted = os.path.join(out, "extracted")
    subprocess.run(["unzip", "-q", archive, "-d", extracted], check=True)
    dataset = load_dataset("imagefolder", data_dir=extracted, split="train", cache_dir=os.path.join(out, "cache"))
    size = dataset._estimate_nbytes()
    count = size // convert_file_size_to_int(config.MAX_SHARD_SIZE) + 1
    rows = get_writer_batch_size_from_data_size(len(dataset), size)
    for index in range(count):
        shard = dataset.shard(num_shards=count, index=index, contiguous=True).with_format("arrow")
        shard = shard.map(embed_table_storage, batched=True, batch_size=rows, keep_in_memory=True)
        shard.to_parquet(os.path.join(out, f"train-{index:05d}-of-{count:05d}.parquet"), batch_size=rows)


def generator(archive: str, out: str) -> None:
    """Prepares the builder that a loading script would hold, as Parquet files."""
    import datasets

    from hyper_kvasir import TAXONOMY

    class Labeled(datasets.GeneratorBasedBuilder):
        def _info(self):
            labels = datasets.ClassLabel(names=[finding.name for finding in TAXONOMY])
            return datasets.DatasetInfo(features=datasets.Features({"image": datasets.Image(), "label": labels}))

        def _split_generators(self, dl_manager):
            files = dl_manager.iter_archive(archive)
            return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs={"files": files})]

        def _generate_examples(self, files):
            for path, file in files:
                if path.endswith(".jpg"):
                    yield path, {"image": {"path": path, "bytes": file.read()}, "label": path.split("/")[-2]}

    builder = Labeled(cache_dir=os.path.join(out, "cache"))
    builder.download_and_prepare(os.path.join(out, "data"), file_format="parquet")


def webdataset(archive: str, out: str) -> None:
    """Writes tars of 1 GB, the size that the Hub's page on WebDataset names."""
    from webdataset import ShardWriter

    with zipfile.ZipFile(archive) as members:
        images = [name for name in members.namelist() if name.endswith(".jpg")]
        labels = sorted({name.split("/")[-2] for name in images})
        with ShardWriter(os.path.join(out, "train-%06d.tar"), maxsize=1e9) as sink:
            for name in images:
                label, file = name.split("/")[-2:]
                sink.write({"__key__": file[:-4], "jpg": members.read(name), "cls": labels.index(label)})


def decode(archive: str, out: str) -> None:
    """Decodes every image by Pillow, as datasets does, with a process for each core."""
    with zipfile.ZipFile(archive) as members:
        names = [name for name in members.namelist() if name.endswith(".jpg")]
    cores = os.cpu_count()
    with multiprocessing.Pool(cores) as pool:
        pool.starmap(_decode, [(archive, names[i::cores]) for i in range(cores)])


def _decode(archive, names):
    from PIL import Image

    with zipfile.ZipFile(archive) as members:
        for name in names:
            Image.open(io.BytesIO(members.read(name))).convert("RGB").load()


ROUTES = {"imagefolder": imagefolder, "generator": generator, "webdataset": webdataset, "decode": decode}

if __name__ == "__main__":
    route, archive, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    ROUTES[route](archive, out)
