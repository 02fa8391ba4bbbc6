"""Delete what botocore brings for the AWS services that we do not use: 26 of its 31 MB.

    python prune_botocore.py PACKAGES

A client for DynamoDB lists and reads these folders when it is made, which is in the cold start.
"""

import shutil
import sys
from pathlib import Path

KEEP = {"dynamodb"}

data = Path(sys.argv[1]) / "botocore" / "data"
services = [folder for folder in data.iterdir() if folder.is_dir()]
for folder in services:
    if folder.name not in KEEP:
        shutil.rmtree(folder)
print(f"kept {len(KEEP)} of {len(services)} services")
