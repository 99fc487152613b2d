"""An embedded Hugging Face Hub on 127.0.0.1, to try and test publication without the network.

The unmodified clients (`huggingface_hub`, `hf_xet`, `datasets`, the npm package `@huggingface/hub`) talk to it once
`HF_ENDPOINT` names it. By hand: `python -m scripts.loopback_hub --help`. From Python:

    with LoopbackHub(folder) as hub:
        subprocess.run([...], env=hub.env(home=folder / "home"))
        print(hub.counters()["uploaded"])
"""

from .client import LoopbackHub

__all__ = ["LoopbackHub"]
