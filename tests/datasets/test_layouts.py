"""Every layout that people have, written as they have it."""

from pathlib import Path

import pytest

from stdeploy.datasets.csv_list import read_list, write_list
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample
from stdeploy.datasets.loader import read_split, videos_of
from stdeploy.errors import DatasetError

SHARED = Path(__file__).parents[4] / "shared"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def named(data: LabelledVideos) -> list[tuple[str, str]]:
    return [(sample.video.name, data.labels[sample.label]) for sample in data.samples]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    touch(tmp_path, "v/1.mp4", "v/2.mp4", "v/3.mp4")
    write(tmp_path / "train.csv", "path,label", "v/1.mp4,wave", "v/2.mp4,clap")
    write(tmp_path / "validation.csv", "label,path,note", "wave,v/3.mp4,x")
    return tmp_path


def test_lists_share_the_labels_of_training(lists: Path) -> None:
    assert named(read_split(lists, "train")) == [("1.mp4", "wave"), ("2.mp4", "clap")]
    held_out = read_split(lists, "validation")
    assert held_out.labels == ("clap", "wave")
    assert named(held_out) == [("3.mp4", "wave")]
    assert read_split(lists / "validation.csv", "train").labels == ("wave",)


def test_a_list_is_written_with_paths_from_its_folder(lists: Path, tmp_path: Path) -> None:
    data = read_split(lists, "train")
    (tmp_path / "other").mkdir()
    write_list(tmp_path / "other" / "mine.csv", data)
    assert (tmp_path / "other" / "mine.csv").read_text().splitlines() == [
        "path,label",
        "../v/1.mp4,wave",
        "../v/2.mp4,clap",
    ]
    again = read_list(tmp_path / "other" / "mine.csv")
    assert [s.video.resolve() for s in again.samples] == [s.video.resolve() for s in data.samples]


def test_videos_of_a_list_are_named_without_detours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "home/clips/wave/1.mp4", "far/clips/2.mp4", "real/3.mp4", "real/deep/4.mp4")
    home = tmp_path / "home"
    (home / "link").symlink_to(tmp_path / "real" / "deep")
    (home / "ring").symlink_to(home / "ring")
    names = ["../clips/wave/1.mp4", "../../far/clips/2.mp4", "../link/../3.mp4", "../link/4.mp4"]
    names += [
        "own.mp4",
        "../ring/../5.mp4",
        "../none/../6.mp4",
        "..",
        str(tmp_path / "far" / ".." / "real" / "3.mp4"),
    ]
    write(home / "lists" / "train.csv", "path,label", *(f"{name},wave" for name in names))
    monkeypatch.chdir(home)

    def found(path: Path) -> list[str]:
        return [str(sample.video) for sample in read_list(path).samples]

    here = found(Path("lists/train.csv"))
    assert here == [
        *("clips/wave/1.mp4", "../far/clips/2.mp4", "../real/3.mp4", "link/4.mp4"),
        *("lists/own.mp4", "lists/../ring/../5.mp4", "lists/../none/../6.mp4", "lists/.."),
        str(tmp_path / "real" / "3.mp4"),
    ]
    for name, video in zip(names[:4], here[:4], strict=True):
        assert Path(video).samefile(home / "lists" / name)
    # A list that was named from the root stays so, wherever one stands.
    whole = found(home / "lists" / "train.csv")
    assert whole[0] == str(home / "clips" / "wave" / "1.mp4")
    # And what is far from here is shorter from the root.
    (tmp_path / "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t/u/v/w/x/y/z").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t/u/v/w/x/y/z")
    assert found(Path("../" * 26 + "home/lists/train.csv"))[1] == (
        "../" * 26 + "far/clips/2.mp4"
        if len("../" * 26) < len(f"{tmp_path}/")
        else str(tmp_path / "far" / "clips" / "2.mp4")
    )


def test_a_list_stays_right_when_it_is_moved_with_its_videos(
    lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lists)
    (lists / "mine").mkdir()
    write_list(Path("mine/train.csv"), read_split(Path("train.csv"), "train"))
    write_list(Path("mine/again.csv"), read_list(Path("mine/train.csv")))
    assert Path("mine/again.csv").read_text() == Path("mine/train.csv").read_text()
    lists.rename(tmp_path.with_name("moved"))
    monkeypatch.chdir(tmp_path.with_name("moved"))
    assert all(sample.video.is_file() for sample in read_list(Path("mine/again.csv")).samples)


def test_of_a_data_set_only_the_videos_of_a_split_are_taken(lists: Path, tmp_path: Path) -> None:
    found = videos_of(lists, "train")
    assert [video.name for video in found.videos] == ["1.mp4", "2.mp4"]
    assert found.some(32) == f"2 of the 2 training videos of {lists}"
    assert [video.name for video in videos_of(lists, "validation").videos] == ["3.mp4"]
    touch(tmp_path, "set/train/wave/a.mp4", "set/train/clap/b.mp4", "set/val/wave/c.mp4")
    found = videos_of(tmp_path / "set", "train")
    assert [video.name for video in found.videos] == ["b.mp4", "a.mp4"]
    assert found.some(1) == f"1 of the 2 training videos of {tmp_path / 'set'}"


def test_of_a_list_or_any_other_folder_all_videos_are_taken(lists: Path, tmp_path: Path) -> None:
    write(lists / "twice.csv", "path,label", "v/3.mp4,wave", "v/1.mp4,wave", "v/3.mp4,clap")
    found = videos_of(lists / "twice.csv", "train")
    assert [video.name for video in found.videos] == ["3.mp4", "1.mp4"]
    assert found.some(32) == f"2 of the 2 videos of {lists / 'twice.csv'}"
    touch(tmp_path, "any/wave/b.mp4", "any/a.mov", "any/wave/notes.txt")
    found = videos_of(tmp_path / "any", "train")
    assert [video.name for video in found.videos] == ["a.mov", "b.mp4"]
    assert found.some(1) == f"1 of the 2 videos of {tmp_path / 'any'}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"none' does not exist; name a folder of videos, a \.csv list with the columns"),
        ("test/1.mp4", r"1\.mp4' is neither folder nor \.csv list; name a folder of videos"),
        ("empty", r"empty' holds no video; videos end in \.mp4"),
        ("", r"holds none of the folders train.* looks like a data set, of which only training"),
        ("lists", r"lists' are not there, the first .*gone\.mp4'; `stdeploy data check` with -o"),
    ],
)
def test_videos_that_cannot_be_had_are_one_clear_line(
    tmp_path: Path, name: str, message: str
) -> None:
    touch(tmp_path, "test/1.mp4", "other/2.mp4")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "lists" / "train.csv", "path,label", "gone.mp4,wave")
    with pytest.raises(DatasetError, match=message) as caught:
        videos_of(tmp_path / name, "train")
    assert "\n" not in str(caught.value)
    assert ("looks like" in str(caught.value)) == (name == "")


def test_folders_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/wave/b.mp4", "train/wave/a.avi", "train/clap/c.webm", "val/wave/d.mp4")
    touch(tmp_path, "train/wave/notes.txt", "train/.cache/x.mp4")
    assert named(read_split(tmp_path, "train")) == [
        ("c.webm", "clap"),
        ("a.avi", "wave"),
        ("b.mp4", "wave"),
    ]
    assert read_split(tmp_path, "validation").samples[0].label == 1


@pytest.mark.parametrize("inside", ["abseiling/", ""])
def test_kinetics_leaves_out_clips_that_are_gone(tmp_path: Path, inside: str) -> None:
    header = "label,youtube_id,time_start,time_end,split"
    write(
        tmp_path / "annotations" / "train.csv",
        header,
        "abseiling,abc,95,105,train",
        "zumba,x_y-z,0,10,train",
        "abseiling,gone,1,11,train",
    )
    write(tmp_path / "annotations" / "val.csv", header, "zumba,q,3,13,validate")
    touch(tmp_path, f"train/{inside}abc_000095_000105.mp4", "train/x_y-z.mkv", "val/q_3_13.mp4")
    data = read_split(tmp_path, "train")
    assert named(data) == [("abc_000095_000105.mp4", "abseiling"), ("x_y-z.mkv", "zumba")]
    assert named(read_split(tmp_path, "validation")) == [("q_3_13.mp4", "zumba")]


def test_ucf101(tmp_path: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 Zumba", "2 Archery")
    write(lists / "trainlist02.txt", "Archery/v_Archery_g08_c01.avi 2")
    write(lists / "testlist02.txt", "Zumba/v_Zumba_g01_c01.avi")
    touch(tmp_path, "UCF-101/Archery/v_Archery_g08_c01.avi", "UCF-101/Zumba/v_Zumba_g01_c01.avi")
    data = read_split(tmp_path, "train", fold=2)
    assert data.labels == ("Zumba", "Archery")
    assert named(data) == [("v_Archery_g08_c01.avi", "Archery")]
    assert named(read_split(tmp_path, "validation", fold=2)) == [("v_Zumba_g01_c01.avi", "Zumba")]
    with pytest.raises(DatasetError, match=r"trainlist01\.txt' cannot be read"):
        read_split(tmp_path, "train")
    write(lists / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 102")
    with pytest.raises(DatasetError, match=r"label 102, but Archery is 2 of 1 to 2 in classInd"):
        read_split(tmp_path, "train")
    write(lists / "classInd.txt", "1 Zumba", "3 Archery")
    with pytest.raises(DatasetError, match=r"line 2: '3 Archery' is not 2 and a class"):
        read_split(tmp_path, "train")


def test_a_fold_that_is_not_there_is_refused(lists: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"--fold 2: .* has one division only"):
        read_split(lists, "train", fold=2)
    write(tmp_path / "ucf" / "classInd.txt", "1 Zumba")
    with pytest.raises(DatasetError, match=r"--fold 4: .* has the folds 1 to 3"):
        read_split(tmp_path / "ucf", "train", fold=4)


def test_hmdb51(tmp_path: Path) -> None:
    lists = tmp_path / "testTrainMulti_7030_splits"
    write(lists / "wave_test_split1.txt", "a b_wave_1.avi 1 ", "w2.avi 2 ", "w3.avi 0 ")
    write(lists / "clap_test_split1.txt", "c1.avi 1")
    touch(tmp_path, "wave/a b_wave_1.avi", "wave/w2.avi", "clap/c1.avi")
    assert named(read_split(tmp_path, "train")) == [("c1.avi", "clap"), ("a b_wave_1.avi", "wave")]
    assert named(read_split(tmp_path, "validation")) == [("w2.avi", "wave")]
    (lists / "clap_test_split1.txt").write_bytes(b"\xff\xfe c1.avi 1")
    with pytest.raises(DatasetError, match=r"clap_test_split1\.txt' cannot be read"):
        read_split(tmp_path, "train")


@pytest.mark.skipif(not (SHARED / "data" / "surv_fight").is_dir(), reason="real data not here")
def test_a_real_data_set_is_read_and_shares_no_source() -> None:
    training = read_split(SHARED / "data" / "surv_fight", "train")
    held_out = read_split(SHARED / "data" / "surv_fight", "validation")
    assert (len(training.samples), len(held_out.samples)) == (209, 36)
    assert training.labels == held_out.labels == ("fight", "noFight")
    assert not {s.video for s in training.samples} & {s.video for s in held_out.samples}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,class", "v/1.mp4,wave"], "has no column 'label'; its first line is 'path,class'"),
        (["path,label"], "lists no training video"),
        (["path,label", "v/1.mp4,"], "line 2: label is empty"),
        (
            ["path,label", "v/1.mp4,wave", "v/9.mp4,wave"],
            r"1 of the 2 .* the first is .*9\.mp4",
        ),
    ],
)
def test_a_bad_list_is_one_clear_line(lists: Path, lines: list[str], message: str) -> None:
    write(lists / "bad.csv", *lines)
    with pytest.raises(DatasetError, match=message) as caught:
        read_split(lists / "bad.csv", "train")
    assert "\n" not in str(caught.value)


def test_a_label_that_training_does_not_have_is_named(lists: Path) -> None:
    write(lists / "validation.csv", "path,label", "v/3.mp4,jump")
    with pytest.raises(
        DatasetError, match=r"not among the 2 labels of .*: 'jump'; use the classes of"
    ):
        read_split(lists, "validation")
    write(lists / "validation.csv", "path,label", "v/3.mp4,WAVE")
    with pytest.raises(DatasetError, match=r": 'WAVE' \(did you mean 'wave'\?\); use the"):
        read_split(lists, "validation")


def test_three_unknown_labels_are_named_and_all_counted() -> None:
    labels = ("Fihgt", "xyz", "wave", "wlak", "jump")
    samples = tuple(Sample(Path(f"{n}.mp4"), n) for n in range(5))
    with pytest.raises(DatasetError) as caught:
        LabelledVideos(labels, samples).with_labels(("fight", "walk", "wave"), source="a.pt")
    assert str(caught.value) == (
        "4 of the 5 labels of the data set are not among the 3 labels of a.pt: 'Fihgt' (did you "
        "mean 'fight'?), 'xyz', 'wlak' (did you mean 'walk'?), ...; use the classes of a.pt, the "
        "first of which is 'fight'"
    )


def test_where_nothing_is_held_out_the_way_is_shown(tmp_path: Path) -> None:
    touch(tmp_path, "train/wave/a.mp4")
    with pytest.raises(DatasetError, match=r"`stdeploy data split .*/train -o LISTS` holds some"):
        read_split(tmp_path, "validation")


def test_a_folder_in_other_capitals_gets_a_hint(tmp_path: Path) -> None:
    touch(tmp_path, "training/wave/a.mp4", "val/Wave/b.mp4")
    message = r"val/Wave' is a class that .*/training' does not have; did you mean 'wave'\?"
    with pytest.raises(DatasetError, match=message):
        read_split(tmp_path, "validation")


@pytest.mark.parametrize("name", ["train/wave/", "train/wave/x.txt"])
def test_an_empty_class_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "train/clap/a.mp4")
    (tmp_path / "train" / "wave").mkdir()
    if not name.endswith("/"):
        touch(tmp_path, name)
    held = (
        ""
        if name.endswith("/")
        else r" \(passed over: 1 that is no video by its name \(1 \.txt\)\)"
    )
    message = rf"train/wave' holds no video{held}; add some, or remove"
    with pytest.raises(DatasetError, match=message):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("name", ["", "none"])
def test_what_is_no_data_set_lists_the_layouts(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"path,label.*UCF101; HMDB51; Kinetics"):
        read_split(tmp_path / name, "train")


def test_mini_sets_have_the_same_half_of_the_classes_in_both_splits() -> None:
    labels = tuple("abcdefgh")
    data = LabelledVideos(labels, tuple(Sample(Path(f"{n}.mp4"), n % 8) for n in range(24)))
    backwards = LabelledVideos(labels[::-1], tuple(Sample(Path("x.mp4"), n) for n in range(8)))
    mini, other = data.half_of_classes(3), backwards.half_of_classes(3)
    assert len(mini.labels) == 4
    assert set(mini.labels) == set(other.labels)
    assert mini.counts() == [3, 3, 3, 3]
    assert {(s.video.stem, mini.labels[s.label]) for s in mini.samples} <= {
        (str(n), labels[n % 8]) for n in range(24)
    }
    assert set(data.half_of_classes(4).labels) != set(mini.labels)
    with pytest.raises(DatasetError, match=r"0.1 of 8 classes leaves 1"):
        data.half_of_classes(3, share=0.1)
