"Everything a build needs to know stands in `settings.ini`; nothing is repeated here."
import configparser
import shlex
from pathlib import Path
from setuptools import find_packages, setup

cfg = configparser.ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

requires, quickstart, kcdp, onnx, site, dev = (shlex.split(cfg[k]) for k in ('requirements', 'quickstart_requirements', 'kcdp_requirements', 'onnx_requirements', 'site_requirements', 'dev_requirements'))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['pacl_nb', 'pacl_nb.*']), include_package_data=True, python_requires=f">={cfg['min_python']}",
    install_requires=requires, extras_require={'quickstart': quickstart, 'kcdp': kcdp, 'onnx': onnx, 'site': site, 'dev': quickstart + kcdp + onnx + dev},
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
                 'License :: OSI Approved :: Apache Software License', 'Programming Language :: Python :: 3'],
    zip_safe=False)
